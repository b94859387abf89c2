"""A dataset, a training run and a checkpoint made by commit 3ee6561 are still of use.

tests/data/made-by-3ee6561 holds them: what the commands of that commit wrote from two small shards,
and the weights of pure-16k-small that it shipped.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from speechmill.codecs import codec_info, load_codec
from speechmill.jobs.cli import app
from speechmill.pipeline.audio.decoders import AUDIO_VERSION
from speechmill.pipeline.tokenize.writer import read_footer
from tests.conftest import REPOSITORY
from tests.s3_server import S3Server

MADE = REPOSITORY / "tests" / "data" / "made-by-3ee6561"
TRAINING = MADE / "training"
CODECS = ("null", "pure-16k-small")
SHIPPED_THEN = {
    "checkpoint": MADE / "codec" / "pure-16k-small.safetensors",
    "config": MADE / "codec" / "config.json",
}
TOKENIZE = f"""
shards: ['s3://corpus/']
output: 's3://tokens/old'
codecs:
  - 'null'
  - name: pure-16k-small
    checkpoint: {SHIPPED_THEN["checkpoint"]}
    config: {SHIPPED_THEN["config"]}
workers: {{num_gpus: 0, count: 0}}
"""
OVERRIDES = {
    "null": (),
    "pure-16k-small": tuple(f"codec.{key}={path}" for key, path in SHIPPED_THEN.items()),
}


def speechmill(*arguments: object, exit_code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == exit_code, done.output
    return done.output


@pytest.fixture
def store(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store with the shards and the datasets at the URLs that they had."""
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    filesystem = moto.filesystem()
    for folder, url in ((MADE / "shards", "s3://corpus"), (MADE / "dataset", "s3://tokens/old")):
        filesystem.mkdir(url.split("/old")[0])
        for path in folder.rglob("*.*"):
            filesystem.pipe_file(f"{url}/{path.relative_to(folder)}", path.read_bytes())
    yield filesystem
    for bucket in ("s3://corpus", "s3://tokens"):
        filesystem.rm(bucket, recursive=True)


def content(part: bytes) -> tuple[pa.Table, dict[str, Any]]:
    """The rows and the footer of a part, without the versions of libraries."""
    footer = read_footer(part)
    del footer["libraries"]
    return pq.read_table(pa.BufferReader(part)).replace_schema_metadata(None), footer


def set_audio_version(store: Any, version: int) -> None:
    for codec in CODECS:
        url = f"s3://tokens/old/{codec}/dataset.json"
        identity = json.loads(store.cat_file(url)) | {"audio_version": version}
        store.pipe_file(url, json.dumps(identity).encode())


def test_a_dataset_is_only_resumed_if_its_owner_says_that_its_audio_is_decoded_as_before(
    store: Any, tmp_path: Path
) -> None:
    (tmp_path / "tokenize.yaml").write_text(TOKENIZE)
    refusal = speechmill("tokenize", tmp_path / "tokenize.yaml", exit_code=2)
    assert f"audio_version 1, now it is {AUDIO_VERSION}" in " ".join(refusal.split())
    set_audio_version(store, 2)
    refusal = speechmill("tokenize", tmp_path / "tokenize.yaml", exit_code=2)
    assert f"audio_version 2, now it is {AUDIO_VERSION}" in " ".join(refusal.split())
    set_audio_version(store, AUDIO_VERSION)
    assert "nothing left to do" in speechmill("tokenize", tmp_path / "tokenize.yaml")
    lost = "s3://tokens/old/null/tokens/shard-000001-95a89cd1b92e.parquet"
    before = store.cat_file(lost)
    store.rm_file(lost)
    speechmill("tokenize", tmp_path / "tokenize.yaml")
    assert content(store.cat_file(lost)) == content(before)


@pytest.mark.parametrize("codec", CODECS)
def test_a_dataset_is_verified_reported_and_decoded(codec: str, store: Any, tmp_path: Path) -> None:
    dataset = f"s3://tokens/old/{codec}"
    verify = ("verify", dataset, "--source", "s3://corpus", "--tolerance", "0.1", "--reencode", "7")
    assert "7 rows" in speechmill(*verify, *OVERRIDES[codec])
    assert "TruncatedAudio" in speechmill("status", dataset)
    assert "report.html" in speechmill("report", dataset)
    speechmill("decode", dataset, tmp_path / "decoded", *OVERRIDES[codec])
    assert len(list((tmp_path / "decoded").rglob("*.flac"))) == 7


def test_a_dataset_is_compacted_and_then_used_as_before(store: Any, tmp_path: Path) -> None:
    dataset, compacted = "s3://tokens/old/null", "s3://tokens/compacted"
    speechmill("compact", dataset, compacted)
    assert len(store.ls(f"{compacted}/tokens")) == len(store.ls(f"{compacted}/rejects")) == 1
    verify = ("verify", compacted, "--source", "s3://corpus", "--tolerance", "0.1")
    assert "7 rows" in speechmill(*verify, "--keys", "--reencode", "7", "--redecode", "1")
    status = json.loads(speechmill("status", compacted, "--json"))
    before = json.loads(speechmill("status", dataset, "--json"))
    for changed in ("root", "parts", "compacted"):
        del status[changed], before[changed]
    assert status == before
    assert "report.html" in speechmill("report", compacted)
    for root, output in ((dataset, "before"), (compacted, "after")):
        speechmill("decode", root, tmp_path / output, "--shards")
    tars = [path.name for path in sorted((tmp_path / "before").iterdir())]
    for name in tars:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    assert len(tars) == 2


def test_a_training_run_resumes_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TRAINING, tmp_path, dirs_exist_ok=True)
    shutil.copytree(MADE / "shards", tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    speechmill("train", "train.yaml")
    curves = sorted(path.name for path in (tmp_path / "run" / "curves").iterdir())
    assert curves == [f"step-{step:08d}.jsonl" for step in (4, 6, 8, 12)]
    ended = load_file(tmp_path / "run" / "last.safetensors")
    for name, weight in load_file(TRAINING / "finished.safetensors").items():
        # Four steps of 1e-3, computed by another processor.
        torch.testing.assert_close(ended[name], weight, rtol=0, atol=5e-3)


def test_a_checkpoint_loads_with_the_revision_that_it_had() -> None:
    files = {"checkpoint": TRAINING / "run" / "last.safetensors", "config": TRAINING / "tiny.json"}
    assert codec_info("pure", **files).revision == "ec9dd5909e9f7f6c"
    assert load_codec("pure", **files).info.trained


def test_every_codec_keeps_its_revision() -> None:
    before = json.loads((MADE / "revisions.json").read_text())
    weights = {name: {"checkpoint": "untrained"} for name in before.keys() - {"null"}}
    weights["pure-16k-small"]["config"] = str(SHIPPED_THEN["config"])
    now = {name: codec_info(name, **files).revision for name, files in weights.items()}
    assert now | {"null": codec_info("null").revision} == before


def test_the_weights_that_shipped_then_are_of_use_with_the_sizes_that_they_had() -> None:
    assert codec_info("pure-16k-small", **SHIPPED_THEN).revision == "db40d37a5541edbe"


def test_the_codec_that_ships_keeps_its_revision() -> None:
    assert codec_info("pure-16k-small").revision == "1f516ece4083b457"
