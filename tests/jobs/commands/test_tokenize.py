"""From end to end, as users run it: the command line, Ray workers, files."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from speechmill.pipeline.storage import Storage
from tests.corpus import clip, tar_bytes, write_corpus
from tests.jobs.conftest import command, invoke, wait_until, write_config


def parts(output):
    return sorted((output / "tokens").glob("*.parquet"))


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, cluster, speechmill):
    """A configuration, its output and what the command printed; the tests below change nothing."""
    folder = tmp_path_factory.mktemp("first")
    write_corpus(folder / "in", num_shards=2, clips_per_shard=5)
    path = write_config(folder, cluster, folder / "in", folder / "out", codec="pure-16k-small")
    return path, folder / "out", speechmill("tokenize", path)


def test_shards_become_a_dataset_and_the_second_run_has_nothing_to_do(first_run):
    path, output, first = first_run
    assert first.returncode == 0, first.stderr
    assert "codec    pure-16k-small, revision" in first.stdout
    assert "2/2 shards" in first.stdout
    assert len(pq.read_table(output / "tokens")) == 10
    before = [(p, p.stat().st_mtime_ns) for p in parts(output)]
    second = invoke("tokenize", path)
    assert (second.exit_code, "nothing left to do" in second.stdout) == (0, True)
    assert before == [(p, p.stat().st_mtime_ns) for p in parts(output)]


def test_a_run_leaves_its_configuration_its_events_and_a_summary(first_run):
    _, output, _ = first_run
    run = min((output / "runs").iterdir())
    assert "num_gpus: 0" in (run / "config.yaml").read_text()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    kinds = ["run started", "worker ready", "committed", "committed", "run ended"]
    assert [event["event"] for event in events] == kinds
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["shards"], summary["rows"]) == ("done", 2, 10)


def test_a_bad_shard_is_given_up_on_the_others_are_done_and_a_repaired_one_is_taken(
    tmp_path, config
):
    [good, bad] = write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=3)
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    path = config(tmp_path / "in", tmp_path / "out")
    first = invoke("tokenize", path)
    assert first.exit_code == 1
    assert "ShardCut" in first.stdout
    [failed] = (tmp_path / "out" / "failed").glob("*.json")
    record = json.loads(failed.read_text())
    assert record["shard"] == str(bad)
    assert "is cut at byte" in record["message"]
    assert [p.name.startswith(good.stem) for p in parts(tmp_path / "out")] == [True]
    status = invoke("status", tmp_path / "out")
    assert (status.exit_code, "ShardCut" in status.stdout) == (1, True)
    bad.write_bytes(whole)
    assert invoke("tokenize", path, "workers.count=0").exit_code == 0
    assert len(parts(tmp_path / "out")) == 2
    assert invoke("status", tmp_path / "out").exit_code == 0


def test_a_cluster_that_lets_no_worker_live_ends_the_run(tmp_path, config, speechmill):
    write_corpus(tmp_path / "in", num_shards=1, clips_per_shard=1)
    path = config(tmp_path / "in", tmp_path / "out")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}  # the cluster has another
    done = speechmill("tokenize", path, environment=token)
    assert done.returncode not in (0, 130)
    assert "worker" in done.stderr
    assert not parts(tmp_path / "out")


def test_status_counts_what_the_dataset_holds(tmp_path):
    members = [("a.flac", clip()), ("a.json", b"{bad"), ("b.flac", b""), ("c.flac", clip(2.0))]
    Storage().put(f"{tmp_path}/in/x.tar", tar_bytes(members))
    (tmp_path / "here.yaml").write_text(
        f"shards: ['{tmp_path}/in']\noutput: '{tmp_path}/out'\ncodec: {{name: 'null'}}\n"
        "workers: {num_gpus: 0, count: 0}\n"
    )
    assert invoke("tokenize", tmp_path / "here.yaml").exit_code == 0
    found = json.loads(invoke("status", tmp_path / "out", "--json").stdout)
    assert (found["parts"], found["rows"], found["frames"]) == (1, 2, 150)
    assert found["last_run"]["status"] == "done"
    assert f"{found['last_run']['run']}, done" in invoke("status", tmp_path / "out").stdout
    assert (found["rejects"], found["bad_json"]) == ({"UndecodableAudio": 1}, 1)
    assert found["audio_hours"] == pytest.approx(3 / 3600)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["codec.name=pure-16k-smal"], "did you mean 'pure-16k-small'?"),
        (["codec.precison=fp32"], "did you mean codec.precision?"),
        (["shards=[nowhere/]"], f"no .tar found at {Path.cwd()}/nowhere/"),
        (["codec.checkpoint=none.safetensors", "codec.name=pure-16k-small"], "none.safetensors"),
    ],
)
def test_a_usage_error_is_one_line_with_the_cure_and_exit_code_2(
    tmp_path, config, overrides, message
):
    write_corpus(tmp_path / "in", num_shards=1, clips_per_shard=1)
    done = invoke("tokenize", config(tmp_path / "in", tmp_path / "out"), *overrides)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_of_another_codec_is_refused(first_run):
    path, _, _ = first_run
    other = invoke("tokenize", path, "codec.name='null'")
    assert other.exit_code == 2
    assert "holds tokens of codec = 'pure-16k-small'" in other.stderr


def test_without_a_gpu_a_worker_that_wants_one_is_refused_with_the_cure(tmp_path, config):
    write_corpus(tmp_path / "in", num_shards=1, clips_per_shard=1)
    path = config(tmp_path / "in", tmp_path / "out")
    done = invoke("tokenize", path, "workers.num_gpus=1", "codec.device=cpu")
    assert done.exit_code == 2
    assert "set workers.num_gpus=0" in done.stderr


def test_ctrl_c_ends_with_130_and_a_dataset_that_can_be_resumed(tmp_path, config):
    write_corpus(tmp_path / "in", num_shards=6, clips_per_shard=4)
    path = config(tmp_path / "in", tmp_path / "out", codec="pure-16k-small")
    process = subprocess.Popen(command("tokenize", str(path)), env=os.environ)
    wait_until(lambda: parts(tmp_path / "out"), process)
    process.send_signal(signal.SIGINT)
    assert process.wait() in (130, 0)
    assert invoke("tokenize", path, "workers.count=0").exit_code == 0
    assert len(pq.read_table(tmp_path / "out" / "tokens")) == 24
