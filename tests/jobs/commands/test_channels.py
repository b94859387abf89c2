"""A dataset with a row for each channel, through the commands."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.corpus import encode, tar_bytes, tone
from tests.jobs.conftest import invoke


@pytest.fixture
def dataset(tmp_path) -> tuple[Path, str]:
    """A dataset of a call, of half a call and of a file with one channel; and its configuration."""
    caller, agent = tone(1.5), tone(1.5, seed=1)
    members = [
        ("call.flac", encode(np.stack([caller, agent], 1))),
        ("half.flac", encode(np.stack([caller, np.zeros_like(caller)], 1))),
        ("mono.flac", encode(caller)),
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(tar_bytes(members))
    path = tmp_path / "each.yaml"
    path.write_text(
        f"shards: ['{tmp_path}/in/']\noutput: '{tmp_path}/out'\ncodec: {{name: 'null'}}\n"
        "audio: {channels: each}\nfilters: {max_silence: 0.9}\nworkers: {num_gpus: 0, count: 0}\n"
        "segment: {by: fixed, seconds: 1.0}\n"
    )
    done = invoke("tokenize", path)
    assert (done.exit_code, "rejects       2" in done.output) == (0, True), done.output
    return tmp_path / "out", str(path)


def test_it_is_verified_decoded_and_exported_with_its_channels(tmp_path, dataset):
    output, _ = dataset
    found = invoke(
        "verify", output, "--source", tmp_path / "in", "--reencode", 99, "--redecode", 99, "--json"
    )
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert (said["rows"], said["rejects"], said["reencoded"]["rows"]) == (8, 2, 8)
    assert said["reencoded"]["shares"] == [0.0] * 8

    assert invoke("decode", output, tmp_path / "audio").exit_code == 0
    names = {path.name for path in (tmp_path / "audio").rglob("*.flac")}
    assert names == {
        *("call.ch0.flac", "call.ch1.flac", "call@1000.ch0.flac", "call@1000.ch1.flac"),
        *("half.ch0.flac", "half@1000.ch0.flac", "mono.flac", "mono@1000.flac"),
    }

    assert invoke("export", output, tmp_path / "tars", "--format", "webdataset").exit_code == 0
    [path] = (tmp_path / "tars").rglob("*.tar")
    with tarfile.open(path) as tar:
        members = {name for name in tar.getnames() if name.endswith(".npy")}
    assert members == {f"{name[:-5].replace('.', '-')}.npy" for name in names}
    assert invoke("export", output, tmp_path / "parquet").exit_code == 0
    exported = pq.read_table(tmp_path / "parquet" / "data")
    assert exported["channel"].to_pylist() == [0, 1, 0, 1, 0, 0, None, None]


def test_a_run_with_other_channels_does_not_continue_it(dataset):
    _, config = dataset
    other = invoke("tokenize", config, "audio.channels=mean")
    assert (other.exit_code, "channels = 'each', this run has 'mean'" in other.output) == (2, True)
    assert "0 of them done" not in invoke("tokenize", config).output


def test_a_channel_that_the_source_lacks_and_a_schema_of_the_future_are_found(dataset):
    output, _ = dataset
    [part] = (output / "tokens").iterdir()
    table = pq.read_table(part)
    wrong = pa.array([9 if n == 0 else None for n in table["channel"].to_pylist()], pa.uint8())
    pq.write_table(table.set_column(len(table.column_names) - 1, "channel", wrong), part)
    found = invoke("verify", output)
    assert "rows are of a channel that the source lacks, first 9" in found.output
    assert "rows do not name their channel, though the source has several" in found.output
    identity = json.loads((output / "dataset.json").read_text())
    (output / "dataset.json").write_text(json.dumps(identity | {"schema_version": 3}))
    for arguments in (["verify", output], ["decode", output, f"{output}-audio"]):
        refused = invoke(*arguments)
        assert (refused.exit_code, "schema_version 3; this version" in refused.output) == (2, True)


def test_shards_of_decoded_channels_are_read_as_a_sample_for_each(tmp_path, dataset):
    output, config = dataset
    assert invoke("decode", output, tmp_path / "again", "--shards").exit_code == 0
    read = invoke("tokenize", config, f"shards=[{tmp_path}/again/]", f"output={tmp_path}/second")
    assert (read.exit_code, "rejects       0" in read.output) == (0, True), read.output
    [part] = (tmp_path / "second" / "tokens").iterdir()
    keys = pq.read_table(part)["key"].to_pylist()
    assert len(keys) == 8
    assert {"call.ch0", "call.ch1", "call@1000.ch1", "mono"} < set(keys)
