"""The great test: wherever a run is stopped, a resume gives the bytes of an undisturbed run."""

import contextlib

import pytest
from rich.console import Console

from speechmill.jobs.commands.tokenize import tokenize_shards
from speechmill.jobs.display import ShardDisplay
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.audio.isolation import kept_process
from speechmill.pipeline.storage import Storage
from tests.corpus import clip, corpus, tar_bytes
from tests.stopping_store import Stopped, StoppingStore

ROOT = "stopping://store"
DISPLAY = ShardDisplay(Console(quiet=True))


@pytest.fixture(autouse=True, scope="module")
def decoding_process():
    """Share one process among all runs: its start takes longer than a run."""
    with kept_process():
        yield


def run(output: str) -> None:
    config = TokenizeConfig(shards=[f"{ROOT}/in/"], output=f"{ROOT}/{output}")
    config.codec.name, config.workers.num_gpus, config.workers.count = "null", 0, 0
    tokenize_shards(config, DISPLAY)


def dataset(output: str) -> dict[str, bytes]:
    files = StoppingStore.files(f"/store/{output}/")
    return {name: data for name, data in files.items() if not name.startswith("runs/")}


@pytest.fixture(scope="module")
def shards() -> None:
    """Two good tars, one with a bad sample, one cut."""
    StoppingStore.begin()
    storage = Storage()
    tars = corpus(num_shards=2, clips_per_shard=2, seconds=0.4)
    tars["bad.tar"] = tar_bytes([("a.flac", clip(0.2)), ("b.flac", b"no audio")])
    tars["cut.tar"] = tars["shard-0000.tar"][:3000]
    for name, data in tars.items():
        storage.put(f"{ROOT}/in/{name}", data)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_stopped_at_any_operation_and_resumed_a_run_gives_the_same_bytes(shards, done):
    StoppingStore.begin()
    run(f"calm-{done}")
    operations, calm = StoppingStore.operations, dataset(f"calm-{done}")
    assert [name.split("/")[0] for name in calm].count("tokens") == 3
    for n in range(operations):
        output = f"stopped-{done}-{n}"
        StoppingStore.begin(stop_after=n, done_before_stop=done)
        with contextlib.suppress(Stopped):  # the thread of the log or the run meets it
            run(output)
        assert StoppingStore.operations > n
        StoppingStore.begin()
        run(output)
        assert dataset(output) == calm, f"stopped after operation {n}"


def test_stopped_at_every_operation_of_every_resume_a_run_still_ends(shards):
    """Each resume gets further than the one before, until one finishes."""
    StoppingStore.begin()
    run("calm")
    for patience in range(8, 200):
        StoppingStore.begin(stop_after=patience)
        with contextlib.suppress(Stopped):
            run("hurried")
            break
    assert dataset("hurried") == dataset("calm")


def test_status_takes_the_settings_of_the_store(moto, moto_bucket, speechmill, shards):
    config = TokenizeConfig([f"{ROOT}/in/"], f"{moto_bucket}/out")
    config.codec.name, config.workers.num_gpus, config.workers.count = "null", 0, 0
    config.storage = {"s3": moto.storage_options}
    StoppingStore.begin()
    assert tokenize_shards(config, DISPLAY).shards == 3
    settings = [f"storage.s3.{name}={value}" for name, value in moto.storage_options.items()]
    found = speechmill("status", f"{moto_bucket}/out", *settings, "--json")
    assert found.returncode == 1, found.stderr  # one shard of the four is cut
    assert '"parts": 3' in found.stdout
