"""`workers.count=0` runs in this process and writes what Ray workers write."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import soundfile

from speechmill.pipeline.storage import Storage
from tests.corpus import clip, tar_bytes, write_corpus
from tests.jobs.conftest import command, contents, invoke, wait_until


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Good tars, one with damaged members and one that is cut."""
    [whole, *_] = write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=3, seconds=0.6)
    members = [("a.flac", clip(0.5)), ("b.flac", b"junk"), ("c.wav", b""), ("d.json", b"{bad")]
    (tmp_path / "in" / "damaged.tar").write_bytes(tar_bytes(members))
    (tmp_path / "in" / "cut.tar").write_bytes(whole.read_bytes()[:3000])
    return tmp_path / "in"


def test_tokenize_writes_the_same_bytes_and_decode_reads_them(tmp_path, config, shards):
    path = config(shards, tmp_path / "ray")
    options = ["codecs=[null, pure-16k-small]", "segment.by=fixed", "segment.seconds=0.5"]
    local = ["workers.count=0", f"output={tmp_path}/local", "ray.address=nowhere:1"]
    for arguments in (options, [*options, *local]):
        done = invoke("tokenize", path, *arguments)
        assert (done.exit_code, "4/4 shards" in done.stdout) == (1, True), done.output
    for codec in ("null", "pure-16k-small"):
        theirs = contents(Storage(), f"{tmp_path}/ray/{codec}")
        ours = contents(Storage(), f"{tmp_path}/local/{codec}")
        assert ours == theirs
        assert len(ours) == 3 + 1 + 1  # tokens, rejects, failed
    again = invoke("tokenize", path, *options, *local)
    assert (again.exit_code, "4, 3 of them done" in again.stdout) == (1, True)
    audio = tmp_path / "audio"
    decoded = invoke("decode", tmp_path / "local" / "null", audio, "workers.count=0")
    assert decoded.exit_code == 0, decoded.output
    assert all(soundfile.info(file).samplerate == 16_000 for file in audio.rglob("*.flac"))


def test_enhance_writes_the_same_bytes(tmp_path, cluster, shards):
    path = tmp_path / "enhance.yaml"
    path.write_text(
        f"shards: [{shards}/]\noutput: {tmp_path}/ray\nenhancer: {{name: spectral-gating}}\n"
        f"ray: {{address: '{cluster.address}'}}\n"
    )
    local = ["workers.count=0", f"output={tmp_path}/local", "ray.address=nowhere:1"]
    for arguments in ([], local):
        done = invoke("enhance", path, *arguments)
        assert (done.exit_code, "4/4 shards" in done.stdout) == (1, True), done.output
    for name in ("shards", "rejects", "reports"):
        theirs, ours = (
            {path.name: path.read_bytes() for path in (tmp_path / output / name).iterdir()}
            for output in ("ray", "local")
        )
        assert ours == theirs != {}


@pytest.mark.parametrize(
    ("number", "codecs"),
    [
        (signal.SIGTERM, ["pure-16k-small"]),
        (signal.SIGINT, ["pure-16k-small", "null"]),
    ],
)
def test_a_signal_to_all_processes_rejects_nothing_and_the_run_can_be_resumed(
    tmp_path, number, codecs
):
    write_corpus(tmp_path / "in", num_shards=48, clips_per_shard=1, seconds=2.0)
    path = tmp_path / "local.yaml"
    path.write_text(
        f"shards: ['{tmp_path}/in/']\noutput: '{tmp_path}/out'\ncodecs: {codecs}\n"
        "batch: {seconds: 2, window_seconds: 2}\n"  # a batch of each shard: parts come one by one
        "workers: {num_gpus: 0, count: 0}\n"
    )
    outputs = [tmp_path / "out" / codec for codec in codecs]
    process = subprocess.Popen(command("tokenize", str(path)), start_new_session=True)
    wait_until(lambda: parts(outputs[0]), process)
    time.sleep(0.1)  # until the codec computes the next shard
    os.killpg(process.pid, number)
    assert process.wait() == 130
    assert 1 <= len(parts(outputs[0])) < 48
    assert invoke("tokenize", path).exit_code == 0
    for output in outputs:
        assert {path.name for path in output.iterdir()} == {"dataset.json", "tokens", "runs"}
        assert len(parts(output)) == 48


def parts(output: Path) -> list[Path]:
    return list(output.glob("tokens/[!.]*"))
