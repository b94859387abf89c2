"""A worker whose codes turn wrong commits nothing more, and the run goes on without it."""

import json
import os
import sys

import pytest
from rich.console import Console

from speechmill.codecs import load_codec
from speechmill.jobs.commands.tokenize import tokenize_shards
from speechmill.jobs.display import ShardDisplay
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.errors import DeviceWrong
from speechmill.pipeline.shards.listing import list_shards
from tests.conftest import FRAGILE
from tests.corpus import write_corpus
from tests.one_shard import tokenize_one


@pytest.fixture
def shards(tmp_path, storage, monkeypatch):
    monkeypatch.syspath_prepend(FRAGILE)
    write_corpus(tmp_path / "in", num_shards=4, clips_per_shard=2, seconds=1.0)
    return list_shards([str(tmp_path / "in")], storage)


@pytest.fixture
def calm(shards, tmp_path, storage):
    """The parts of a run without faults."""
    for shard in shards:
        tokenize_one(shard, f"{tmp_path}/calm", storage, load_codec("fragile"))
    return parts(tmp_path / "calm")


def parts(output):
    return {path.name: path.read_bytes() for path in output.glob("tokens/[!.]*")}


def tokenize_here(folder, **options):
    config = TokenizeConfig(shards=[f"{folder}/in/"], output=f"{folder}/out")
    config.codec.name, config.codec.options = "fragile", options
    config.workers.num_gpus = config.workers.count = 0
    tokenize_shards(config, ShardDisplay(Console(quiet=True)))


def test_a_process_that_computes_wrongly_ends_its_run_and_another_one_resumes(tmp_path, calm):
    with pytest.raises(DeviceWrong, match=r"the CPU of .+ changed 800 of 800 codes"):
        tokenize_here(tmp_path, fault="lie", once=f"{tmp_path}/once")
    assert len(parts(tmp_path / "out")) == 1
    identity = tmp_path / "out" / "dataset.json"
    right = json.loads(identity.read_text())
    wrong = {**right["canary"], "codes": ["7 " * 100] * 8}
    identity.write_text(json.dumps({**right, "canary": wrong}))
    with pytest.raises(DeviceWrong, match="only 0% of a known clip"):
        tokenize_here(tmp_path)
    del right["canary"]  # as in the datasets of early versions
    identity.write_text(json.dumps(right))
    tokenize_here(tmp_path)
    assert parts(tmp_path / "out") == calm


def test_a_worker_that_lies_after_its_first_shard_is_dropped_and_named(
    tmp_path, config, speechmill, calm
):
    path = os.pathsep.join([str(FRAGILE), *sys.path])
    yaml = config(tmp_path / "in", tmp_path / "out", "fragile", {"PYTHONPATH": path})
    lie = ["codec.options.fault=lie", f"codec.options.once={tmp_path}/once"]
    workers = ["workers.count=2", "workers.shards_in_flight=1"]
    done = speechmill("tokenize", yaml, *lie, *workers, environment={"PYTHONPATH": path})
    assert (done.returncode, "4 done, 0 failed, 1 retries" in done.stdout) == (0, True), done.stderr
    assert "going on without a worker: fragile on the CPU of" in done.stderr
    assert parts(tmp_path / "out") == calm
    [run] = (tmp_path / "out" / "runs").iterdir()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    [dropped] = [event for event in events if event["event"] == "worker dropped"]
    nodes = [event["node"] for event in events if event["event"] == "worker ready"]
    assert (dropped["error"], dropped["node"] in nodes) == ("DeviceWrong", True)
    assert dropped["message"].startswith(f"fragile on the CPU of {os.uname().nodename} changed")
