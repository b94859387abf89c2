import io
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.dataset.reencode import reencode
from speechmill.pipeline.dataset.verify import Verification, verify_files
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.foreign import Roots
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import DecodeSettings
from tests.corpus import clip, tar_bytes
from tests.one_shard import tokenize_one

NUM_SHARDS = 3


@pytest.fixture
def dataset(tmp_path, storage, null_codec) -> TokenDataset:
    """Three shards of three rows and two rejects each."""
    dataset = TokenDataset(str(tmp_path / "out"), storage)
    dataset.claim(dataset_identity(null_codec.info, "fp32", DecodeSettings()))
    for number in range(NUM_SHARDS):
        members = [(f"{number}-{i}.flac", clip(0.2, 9 * number + i)) for i in range(3)]
        members += [(f"{number}-bad.flac", b"junk"), (f"{number}-0.flac", clip(0.1))]
        storage.put(f"{tmp_path}/in/{number}.tar", tar_bytes(members))
    for shard in list_shards([str(tmp_path / "in")], storage):
        tokenize_one(shard, dataset.root, storage, null_codec)
    return dataset


def first(dataset: TokenDataset, folder: str = "tokens") -> str:
    """The URL of the first file of a folder."""
    return dataset.storage.list_files(f"{dataset.root}/{folder}")[0].url


def verified(dataset: TokenDataset, **options: Any) -> Verification:
    """With the folder of its tars as the source."""
    return verify_files(dataset, sources=[f"{dataset.root[:-4]}/in"], **options)


def checks(dataset: TokenDataset, **options: Any) -> set[str]:
    return {fault.check for fault in verified(dataset, **options).faults}


def rewrite(
    dataset: TokenDataset,
    table: Callable[[pa.Table], pa.Table] = lambda table: table,
    footer: Callable[[dict[str, Any]], dict[str, Any]] = lambda footer: footer,
    folder: str = "tokens",
) -> None:
    """Put another table, or another footer, into the first file of a folder."""
    url = first(dataset, folder)
    found = pq.read_table(io.BytesIO(dataset.storage.read_bytes(url)))
    changed = footer(json.loads(found.schema.metadata[b"speechmill"]))
    sink = io.BytesIO()
    pq.write_table(table(found).replace_schema_metadata({"speechmill": json.dumps(changed)}), sink)
    dataset.storage.put(url, sink.getvalue())


def with_column(name: str, change: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
    """Change one value of the first row."""

    def changed(table: pa.Table) -> pa.Table:
        position, values = table.column_names.index(name), table[name].to_pylist()
        values[0] = change(values[0])
        column = pa.array(values, type=table.schema.field(name).type)
        return table.set_column(position, table.schema.field(name), column)

    return changed


def test_a_valid_dataset_has_no_faults_and_every_sample_is_found(dataset):
    found = verified(dataset, keys=True, unique_keys=True)
    assert (found.faults, found.notes) == ([], [])
    assert (found.parts, found.rows, found.rejects, found.sources_read) == (3, 9, 6, 3)


def test_a_folder_without_a_dataset_is_refused(tmp_path, storage):
    with pytest.raises(InputError, match=r"no token dataset at .*dataset\.json is missing"):
        verify_files(TokenDataset(str(tmp_path), storage))


@pytest.mark.parametrize("folder", ["tokens", "rejects"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_file_is_unreadable_and_named(dataset, folder, share):
    url = first(dataset, folder)
    data = dataset.storage.read_bytes(url)
    dataset.storage.put(url, data[: int(share * len(data))])
    [fault] = verify_files(dataset).faults
    assert (fault.check, f"{dataset.root}/{fault.file}") == ("unreadable", url)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_page_is_found_or_changes_no_value(dataset, where, bit):
    url = first(dataset)
    whole = dataset.storage.read_bytes(url)
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    damaged = bytearray(whole)
    damaged[4 + int(where * (pages - 4))] ^= 1 << bit
    dataset.storage.put(url, bytes(damaged))
    if not verify_files(dataset, keys=False).faults:
        tables = [pq.read_table(io.BytesIO(data)) for data in (whole, damaged)]
        assert tables[0].equals(tables[1])
    dataset.storage.put(url, whole)


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("codes", with_column("codes", lambda codes: [1024, *codes[1:]])),
        ("codes", with_column("codes", lambda codes: codes[:-1])),
        ("codes", with_column("num_codebooks", lambda _: 7)),
        ("footer", with_column("num_frames", lambda frames: frames + 1)),
        ("footer", with_column("duration", lambda seconds: seconds * 2)),
        ("footer", lambda table: table.slice(1)),
        ("footer", lambda table: table.drop_columns(["text"])),
        ("rows", with_column("end", lambda end: end * 3)),
        ("rows", with_column("start", lambda _: -1.0)),
        ("rows", with_column("shard", lambda _: "other.tar")),
        ("keys", with_column("key", lambda key: key + "x")),
        ("keys", with_column("index", lambda _: 99)),
        ("duplicate", lambda table: pa.concat_tables([table, table.slice(0, 1)])),
        ("rejects", with_column("index", lambda _: 3)),
    ],
)
def test_changed_rows_are_found(dataset, check, change):
    rewrite(dataset, table=change)
    assert check in checks(dataset)


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("footer", lambda footer: footer | {"rows": 4}),
        ("footer", lambda footer: footer | {"precision": "bf16"}),
        ("footer", lambda footer: footer | {"codec": footer["codec"] | {"revision": "0" * 16}}),
        ("rejects", lambda footer: footer | {"rejects": {"UndecodableAudio": 2}}),
        ("unreadable", lambda footer: {"rows": 3}),
        ("name", lambda footer: footer | {"source": footer["source"] | {"etag": "of another"}}),
    ],
)
def test_a_wrong_footer_is_found(dataset, check, change):
    rewrite(dataset, footer=change)
    assert check in checks(dataset, keys=False)


def test_lost_rejects_are_found(dataset):
    dataset.storage.delete(first(dataset, "rejects"))
    assert checks(dataset) == {"rejects", "keys"}


def test_a_row_that_is_missing_from_table_and_footer_is_found_by_its_tar(dataset):
    seconds: list[float] = []

    def drop(table: pa.Table) -> pa.Table:
        seconds.append(table["duration"][0].as_py())
        return table.slice(1)

    def lie(footer: dict[str, Any]) -> dict[str, Any]:
        shorter = footer["audio_seconds"] - 0.2
        return footer | {"rows": 2, "frames": footer["frames"] * 2 // 3, "audio_seconds": shorter}

    rewrite(dataset, table=drop, footer=lie)
    assert seconds == [0.2]
    assert checks(dataset, keys=False) == set()
    assert checks(dataset) == {"keys"}


def test_a_part_copied_under_another_name_is_a_duplicate(dataset):
    copy = f"{dataset.root}/tokens/copy-0123456789ab.parquet"
    dataset.storage.put(copy, dataset.storage.read_bytes(first(dataset)))
    assert {"name", "duplicate"} <= checks(dataset)


@pytest.mark.parametrize("name", ["notes.txt", "old/0-0123456789ab.parquet", "part.parquet"])
def test_a_foreign_file_among_the_parts_is_found(dataset, name):
    dataset.storage.put(f"{dataset.root}/tokens/{name}", b"PAR1")
    assert [(f.check, f.file) for f in verify_files(dataset).faults] == [("name", f"tokens/{name}")]


def test_a_key_in_two_shards_is_a_note_or_a_fault_if_keys_must_be_unique(
    tmp_path, dataset, storage, null_codec
):
    storage.put(f"{tmp_path}/in/9.tar", tar_bytes([("0-1.flac", clip(0.3))]))
    [shard] = list_shards([f"{tmp_path}/in/9.tar"], storage)
    tokenize_one(shard, dataset.root, storage, null_codec)
    assert [note.check for note in verified(dataset).notes] == ["duplicate"]
    assert checks(dataset, unique_keys=True) == {"duplicate"}


def test_missing_sources_are_a_note_or_a_fault_if_keys_are_asked_for(tmp_path, dataset):
    (tmp_path / "in" / "1.tar").unlink()
    found = verified(dataset)
    assert (found.faults, found.sources_read) == ([], 2)
    assert [note.check for note in found.notes] == ["keys"]
    assert checks(dataset, keys=True) == {"keys"}
    assert verified(dataset, keys=False).notes == []


def test_tars_are_read_only_below_the_sources_that_the_user_names(tmp_path, dataset):
    one = f"{tmp_path}/in/1.tar"
    for sources, number in (([], 0), ([one], 1), ([f"{tmp_path}/i"], 0), ([str(tmp_path)], 3)):
        found = verify_files(dataset, sources=sources)
        assert (found.faults, found.sources_read) == ([], number)
        assert [note.check for note in found.notes] == ["keys"] * (number < NUM_SHARDS)
    note = verify_files(dataset).notes[0].message
    assert note.startswith("3 parts are not compared with their tars")
    assert note.endswith(f"--source {tmp_path}/in")
    assert {fault.check for fault in verify_files(dataset, keys=True).faults} == {"keys"}


def test_a_tar_that_was_replaced_is_found(tmp_path, dataset, storage):
    storage.put(f"{tmp_path}/in/1.tar", tar_bytes([("a.flac", clip(0.1))]))
    assert checks(dataset) == {"keys"}


def test_shards_given_up_on_are_listed_and_stale_records_too(tmp_path, dataset, storage):
    record = {"shard": "x.tar", "error": "ShardCut", "message": "is cut at byte 7"}
    dataset.mark_failed(Shard("x.tar", 7, "e"), record)
    dataset.mark_failed(list_shards([f"{tmp_path}/in/1.tar"], storage)[0], record)
    messages = [fault.message for fault in verified(dataset).faults]
    assert any("x.tar: ShardCut: is cut at byte 7" in message for message in messages)
    assert any("has a part; delete this file" in message for message in messages)


def test_rejects_without_a_part_are_noted(dataset):
    dataset.storage.delete(first(dataset))
    found = verified(dataset)
    assert (found.faults, [note.check for note in found.notes]) == ([], ["rejects"])


def test_verifying_takes_a_fixed_number_of_reads_per_part(dataset):
    class Counting(Storage):
        reads = 0

        def open(self, url: str) -> BinaryIO:
            Counting.reads += 1
            return super().open(url)

    assert verify_files(TokenDataset(dataset.root, Counting()), keys=False).faults == []
    assert Counting.reads == 1 + 2 * NUM_SHARDS


@pytest.mark.parametrize("wrong", [None, "x", -1, {}])
@pytest.mark.parametrize("field", ["audio_seconds", "codec", "rejects", "rows", "source"])
def test_a_footer_of_a_stranger_costs_its_part_and_no_traceback(dataset, null_codec, field, wrong):
    rewrite(dataset, footer=lambda footer: footer | {field: wrong})
    assert verified(dataset).faults
    roots = Roots.of([f"{dataset.root[:-4]}/in"], dataset.storage)
    with suppress(InputError):
        list(reencode(dataset, roots, 2, null_codec, DecodeSettings()))
    with suppress(InputError):
        dataset.sources(sorted(dataset.parts()))


@pytest.mark.parametrize("column", ["num_codebooks", "num_frames", "index", "audio_xxh3"])
def test_reencoding_names_the_rows_whose_numbers_are_odd(dataset, null_codec, column):
    def zeros(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(column)
        field = table.schema.field(place)
        return table.set_column(place, field, pa.array([0] * len(table), field.type))

    rewrite(dataset, zeros)
    roots = Roots.of([f"{dataset.root[:-4]}/in"], dataset.storage)
    found = list(reencode(dataset, roots, 99, null_codec, DecodeSettings()))
    assert len(found) == 9
    assert any(row.error for row in found)
