"""From end to end on a real S3 server: real speech in, one row for each utterance out."""

import os
import random
import subprocess
import time
from pathlib import Path

import datasets
import duckdb
import polars
import pyarrow.dataset
import pytest

from speechmill.codecs import codec_info
from speechmill.pipeline.storage import Storage
from tests.conftest import FRAGILE_PYTHONPATH
from tests.corpus import corpus
from tests.jobs.conftest import command, contents
from tests.jobs.datasets import make_dataset

KILLS, SHARDS = 10, 48


@pytest.fixture
def speechmill_s3(speechmill, rgw):
    return lambda *arguments: speechmill(*arguments, environment=rgw.environment)


def test_every_good_utterance_of_real_speech_is_one_row(
    tmp_path, rgw, bucket, real_speech, config, speechmill_s3
):
    packed = speechmill_s3("pack", real_speech, f"{bucket}/in", "shard_mb=12")
    assert packed.returncode == 0, packed.stderr
    path = config(f"{bucket}/in/", f"{bucket}/out", environment=rgw.environment)
    done = speechmill_s3("tokenize", path)
    assert done.returncode == 0, done.stderr
    filesystem = rgw.filesystem()
    source = f"{bucket}/out/tokens".removeprefix("s3://")
    table = pyarrow.dataset.dataset(source, filesystem=filesystem, format="parquet").to_table()
    keys = {p.relative_to(real_speech).with_suffix("").as_posix() for p in all_audio(real_speech)}
    assert sorted(table["key"].to_pylist()) == sorted(key.replace(".", "_") for key in keys)
    info = codec_info("null")
    for row in table.select(["duration", "num_frames", "codes", "sample_rate"]).to_pylist():
        samples = round(row["duration"] * row["sample_rate"]) * 16_000 / row["sample_rate"]
        assert row["num_frames"] in {info.num_frames(int(samples) + n) for n in (0, 1)}
        assert len(row["codes"]) == 8 * row["num_frames"]
        assert max(row["codes"]) < 1024


def all_audio(folder: Path) -> list[Path]:
    return list(folder.rglob("*.flac"))


def test_polars_duckdb_and_datasets_read_the_same_rows(tmp_path):
    make_dataset(tmp_path)
    parts = f"{tmp_path}/out/tokens/*.parquet"
    expected = pyarrow.dataset.dataset(f"{tmp_path}/out/tokens").to_table().to_pylist()
    frames = [row["num_frames"] for row in expected]
    assert [r[0] for r in duckdb.sql(f"SELECT num_frames FROM '{parts}'").fetchall()] == frames
    assert polars.read_parquet(parts)["codes"].to_list() == [row["codes"] for row in expected]
    loaded = datasets.load_dataset(
        "parquet", data_files=parts, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["codes"][:] == [row["codes"] for row in expected]
    assert loaded.features["codes"].feature.dtype == "uint16"


def test_a_driver_killed_ten_times_leaves_the_bytes_of_an_uninterrupted_run(
    rgw, bucket, config, speechmill
):
    storage = Storage({"s3": rgw.storage_options})
    for name, data in corpus(num_shards=SHARDS, clips_per_shard=2, seconds=0.5).items():
        storage.put(f"{bucket}/in/{name}", data)
    storage.put(f"{bucket}/in/shard-0007.tar", corpus(1, 1)["shard-0000.tar"])
    variables = rgw.environment | {"PYTHONPATH": FRAGILE_PYTHONPATH}
    path = config(f"{bucket}/in/", f"{bucket}/killed", codec="fragile", environment=variables)
    slow = "codec.options.seconds=0.5"  # for each batch, so that a kill finds work in hand
    chance = random.Random(7)
    for attempt in range(KILLS):
        before = num_parts(storage, f"{bucket}/killed")
        where = [] if attempt % 4 == 1 else ["workers.count=0"]  # through Ray now and then
        process = subprocess.Popen(
            command("tokenize", str(path), slow, *where),
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
        )
        if attempt % 2:
            wait_for_progress(process, storage, f"{bucket}/killed", before)
            time.sleep(chance.uniform(0.0, 0.5))
        else:
            time.sleep(chance.uniform(0.0, 6.0))
        process.kill()
        process.wait()
    assert num_parts(storage, f"{bucket}/killed") < SHARDS
    assert speechmill("tokenize", path, environment=variables).returncode == 0
    uninterrupted = ("tokenize", path, "workers.count=0", f"output={bucket}/calm")
    assert speechmill(*uninterrupted, environment=variables).returncode == 0
    calm = contents(storage, f"{bucket}/calm")
    assert contents(storage, f"{bucket}/killed") == calm
    assert len(calm) == SHARDS


def wait_for_progress(process, storage, output, before) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if num_parts(storage, output) > before:
            return
        time.sleep(0.2)


def num_parts(storage, output) -> int:
    return len(storage.list_files(f"{output}/tokens"))
