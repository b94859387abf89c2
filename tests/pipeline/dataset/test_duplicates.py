"""Equal recordings and rows are found across shards and datasets, and can be dropped."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from speechmill.jobs.cli import app
from speechmill.jobs.commands.compact import compact_dataset
from speechmill.jobs.commands.tokenize import tokenize_shards
from speechmill.jobs.config import from_overrides
from speechmill.jobs.display import Display, ShardDisplay
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.audio.isolation import kept_process
from speechmill.pipeline.dataset.drop import drop_rows, named_entries
from speechmill.pipeline.dataset.duplicates import AUDIO, CODES, find_duplicates
from speechmill.pipeline.dataset.key_file import read_keys, write_keys
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.verify import verify_files
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import DatasetConflict, InputError
from speechmill.pipeline.storage import Storage
from tests.corpus import clip, encode, tar_bytes, tone


@pytest.fixture(autouse=True, scope="module")
def decoding_process():
    with kept_process():
        yield


def tokenize(folder, name: str, tars: dict, *settings: str) -> TokenDataset:
    for tar, members in tars.items():
        Storage().put(f"{folder}/{name}-in/{tar}.tar", tar_bytes(members))
    wanted = [f"shards=[{folder}/{name}-in]", f"output={folder}/{name}", "codec.name=null"]
    local = ["workers.count=0", "workers.num_gpus=0"]
    config = from_overrides(TokenizeConfig, [*wanted, *local, *settings])
    tokenize_shards(config, ShardDisplay(Console(quiet=True)))
    return TokenDataset(f"{folder}/{name}", Storage())


def keys(dataset: TokenDataset) -> list[str]:
    return pq.read_table(f"{dataset.root}/tokens")["key"].to_pylist()


def copies(*datasets: TokenDataset, **options) -> list[tuple]:
    """The name of the dataset, the key and the start of each copy."""
    rows = find_duplicates(datasets, **options).copies.to_pylist()
    return [(row["dataset"].rpartition("/")[2], row["key"], row["start"]) for row in rows]


@pytest.fixture
def dataset(tmp_path) -> TokenDataset:
    """`x` is three times in two tars, twice under its name, and `pcm` has the samples of `y`."""
    x, y = clip(0.6, 1), (32_000 * tone(0.5, seed=2)).astype(np.int16)
    tars = {
        "a": [("x.flac", x), ("y.flac", encode(y)), ("again.flac", x)],
        "b": [("x.flac", x), ("pcm.wav", encode(y, format="WAV"))],
    }
    return tokenize(tmp_path, "out", tars)


def test_equal_files_are_one_group_and_its_first_member_stays(dataset):
    found = find_duplicates([dataset])
    assert (found.compared, found.groups) == (5, 1)
    assert copies(dataset) == [("out", "again", None), ("out", "x", None)]
    assert found.copies["shard"].to_pylist()[1].endswith("b.tar")
    assert found.copies["duration"].to_pylist() == pytest.approx([0.6, 0.6])


def test_equal_codes_are_found_in_other_files(dataset):
    assert [key for _, key, _ in copies(dataset, by=CODES)] == ["again", "x", "pcm"]
    where = Where("duration < 0.55")
    assert [key for _, key, _ in copies(dataset, by=CODES, where=where)] == ["pcm"]
    assert copies(dataset, by=AUDIO, where=where) == []


def test_what_duplicates_writes_drop_takes(dataset, tmp_path):
    run = CliRunner().invoke
    for suffix, left in (("csv", 3), ("parquet", 3), ("jsonl", 2), ("jsonl", 2)):
        by = ["--by", "codes"] if suffix == "jsonl" else []
        file = f"{tmp_path}/copies.{suffix}"
        found = run(app, ["duplicates", dataset.root, "--output", file, *by])
        assert found.exit_code == 0, found.output
        dropped = run(app, ["drop", dataset.root, "--keys", file, "--json"])
        assert dropped.exit_code == 0, dropped.output
        assert json.loads(dropped.stdout)["unmatched"] == 0
        assert len(keys(dataset)) == left
    assert keys(dataset) == ["x", "y"]
    assert verify_files(dataset, sources=[f"{dataset.root}-in"], keys=True).faults == []


def test_duplicates_are_dropped_on_s3(moto, tmp_path):
    """Written there, read from there, and taken out there."""
    bucket, storage = moto.make_bucket(), Storage({"s3": moto.storage_options})
    tars = {"a": [("x.flac", clip(0.6, 1)), ("y.flac", clip(0.6, 2)), ("z.flac", clip(0.6, 1))]}
    local = tokenize(tmp_path, "out", tars)
    for info in local.storage.list_files(local.root):
        url = f"{bucket}/out{info.url.removeprefix(local.root)}"
        storage.put(url, local.storage.read_bytes(info.url))
    dataset, file = TokenDataset(f"{bucket}/out", storage), f"{bucket}/copies.parquet"
    write_keys(find_duplicates([dataset]).copies, file, storage)
    entries, others = named_entries(read_keys(file, storage), dataset)
    assert (len(entries), others) == (1, 0)
    for _ in range(2):  # the second finds nothing left
        drop_rows(dataset, entries)
    left = pq.read_table(io.BytesIO(storage.read_bytes(dataset.part_url(min(dataset.parts())))))
    assert left["key"].to_pylist() == ["x", "y"]
    assert verify_files(dataset).faults == []


def test_a_recording_of_another_dataset_with_the_same_key_stays(dataset, tmp_path):
    """Its file has the key, tar and position of a copy, but is in the dataset that is not named."""
    other = tokenize(tmp_path, "other", {"b": [("x.flac", clip(0.6, 1)), ("n.flac", clip(0.4))]})
    run, file = CliRunner().invoke, f"{tmp_path}/copies.jsonl"
    assert run(app, ["duplicates", other.root, dataset.root, "--output", file]).exit_code == 0
    assert "no entry is of" in run(app, ["drop", other.root, "--keys", file]).output
    assert run(app, ["drop", dataset.root, "--keys", file]).exit_code == 0
    assert (keys(dataset), keys(other)) == (["y", "pcm"], ["x", "n"])


def test_rows_of_one_recording_are_no_duplicates_of_each_other(tmp_path):
    long = clip(1.0, 5)
    tars = {"a": [("long.flac", long), ("copy.flac", long), ("other.flac", clip(1.0, 6))]}
    dataset = tokenize(tmp_path, "out", tars, "segment.by=fixed", "segment.seconds=0.3")
    assert len(keys(dataset)) == 12
    found = find_duplicates([dataset])
    assert (found.compared, found.copies["key"].to_pylist()) == (3, ["copy"])
    assert found.copies["duration"].to_pylist() == pytest.approx([1.0])
    assert len(copies(dataset, by=CODES)) == 4


def test_a_recording_in_two_row_groups_is_one(dataset):
    [name, _] = sorted(dataset.parts())
    url = dataset.part_url(name)
    table = pq.read_table(url)
    pq.write_table(pa.concat_tables([table, table]), url, row_group_size=1)
    assert copies(dataset) == [("out", "again", None), ("out", "x", None)]


def test_a_compacted_dataset_has_the_same_duplicates(dataset):
    options = {"file_mb": 1.0, "without_failed": False, "threads": 1, "overrides": []}
    quiet = Display(Console(quiet=True))
    compact_dataset(dataset.root, f"{dataset.root}-small", **options, display=quiet)
    small = TokenDataset(f"{dataset.root}-small", dataset.storage)
    for by in (AUDIO, CODES):
        found, wanted = (find_duplicates([each], by).copies for each in (small, dataset))
        assert found.drop_columns("dataset").equals(wanted.drop_columns("dataset"))


def test_codes_of_two_revisions_are_not_compared(dataset, tmp_path):
    other = tokenize(tmp_path, "other", {"a": [("z.flac", clip(0.6, 1))]})
    assert copies(dataset, other)[-1] == ("other", "z", None)
    assert copies(dataset, other, by=CODES)[-1] == ("other", "z", 0.0)
    identity = other.require_identity() | {"revision": "another"}
    other._write_identity(identity)
    assert copies(dataset, other)[-1] == ("other", "z", None)
    with pytest.raises(DatasetConflict, match=r"another.*compare by audio"):
        find_duplicates([dataset, other], by=CODES)
    (tmp_path / "link").symlink_to(dataset.root)
    for root in (dataset.root, f"{tmp_path}/link", f"{tmp_path}/out/../out"):
        with pytest.raises(InputError, match="given twice"):
            find_duplicates([dataset, TokenDataset(root, Storage())])


def test_the_command_shows_the_largest_groups(dataset, tmp_path):
    run = CliRunner().invoke
    shown = run(app, ["duplicates", dataset.root]).stdout
    assert "5 recordings by audio" in shown
    assert "again  out: a.tar" in shown
    found = json.loads(run(app, ["duplicates", dataset.root, "--by", "codes", "--json"]).stdout)
    assert [group["copies"] for group in found["largest"]] == [2, 1]
    assert found["wasted_hours"] == pytest.approx(1.7 / 3600)
    for arguments, named in (
        (["--output", "k.txt"], "must end in"),
        (["--by", "text"], "by is 'text'"),
        (["--where", "lang == 1"], "no column 'lang'"),
        ([f"{tmp_path}/none"], "no token dataset at"),
    ):
        failed = run(app, ["duplicates", dataset.root, *arguments])
        assert (failed.exit_code, named in failed.output) == (2, True)
    empty = tokenize(tmp_path, "empty", {"a": [("z.flac", b"junk")]})
    assert "0 recordings" in run(app, ["duplicates", empty.root]).stdout


def test_all_but_the_first_members_with_equal_hashes_are_copies_in_their_order(dataset):
    """Over random parts: the copies are those that a sort of all hashes finds."""
    random = np.random.default_rng(3)
    [name, _] = sorted(dataset.parts())
    table = pq.read_table(dataset.part_url(name))
    drawn = random.integers(0, 400, 600).astype(np.uint64)
    rows = table.take(pa.array(np.zeros(600, np.int64)))
    for column, values in (("audio_xxh3", drawn), ("index", np.arange(600, dtype=np.int32))):
        rows = rows.set_column(rows.column_names.index(column), column, pa.array(values))
    pq.write_table(rows, dataset.part_url(name), row_group_size=70)
    found = find_duplicates([dataset]).copies
    _, first = np.unique(drawn, return_index=True)
    wanted = sorted(set(range(600)) - set(first.tolist()))
    assert [row["index"] for row in found.to_pylist() if row["group"] < 400] == wanted
