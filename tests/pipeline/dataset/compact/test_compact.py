"""A compacted dataset has the rows of its source, whatever happens while it is made."""

import contextlib
import io
import json
from itertools import accumulate, count, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from speechmill.jobs.commands.compact import compact_dataset
from speechmill.jobs.display import Display
from speechmill.pipeline.dataset.compact.files import write_files
from speechmill.pipeline.dataset.compact.plan import _refuse_used, cut_evenly, recorded_plan
from speechmill.pipeline.dataset.compact.regroup import regrouped
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.row_groups import RowGroup, list_row_groups, read_index
from speechmill.pipeline.dataset.sections import joined_footer, sections_in
from speechmill.pipeline.dataset.verify import verify_files
from speechmill.pipeline.errors import DatasetConflict, InputError, StorageError, StorageFull
from speechmill.pipeline.storage import Storage
from tests.pipeline.dataset.compact.varied_parts import add_part, write_dataset
from tests.stopping_store import Stopped, StoppingStore

PARTS = [[3, 1, 40], [], [7], [5, 5, 5, 5], [60], [2, 2]]
NUMBERS = count()


def compacted(source: TokenDataset, output: str = "", **options: Any) -> TokenDataset:
    """By default into files of some kB, beside the source."""
    output = output or f"{source.root}-compacted"
    wanted = {"file_mb": 0.004, "without_failed": False, "threads": 2, **options}
    compact_dataset(source.root, output, overrides=[], display=QUIET, **wanted)
    return TokenDataset(output, source.storage)


QUIET = Display(Console(quiet=True))


@pytest.fixture
def source(tmp_path) -> TokenDataset:
    return write_dataset(str(tmp_path / "out"), PARTS)


def table(dataset: TokenDataset, folder: str = "tokens") -> pa.Table:
    """All rows in the order of the files."""
    files = dataset.storage.list_files(f"{dataset.root}/{folder}")
    tables = [pq.read_table(io.BytesIO(dataset.storage.read_bytes(file.url))) for file in files]
    return pa.concat_tables(tables).replace_schema_metadata(None)


def contents(dataset: TokenDataset) -> dict[str, bytes]:
    root = dataset.storage.absolute(dataset.root)
    files = dataset.storage.list_files(root)
    return {file.url.removeprefix(root): dataset.storage.read_bytes(file.url) for file in files}


def real_row_groups(dataset: TokenDataset) -> list[tuple[RowGroup, float]]:
    """As the rows themselves say."""
    found = []
    for name in sorted(dataset.parts()):
        file = pq.ParquetFile(io.BytesIO(dataset.storage.read_bytes(dataset.part_url(name))))
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number)
            frames, seconds = (sum(rows[c].to_pylist()) for c in ("num_frames", "duration"))
            found.append((RowGroup(name, number, len(rows), frames), seconds))
    return found


@settings(max_examples=10)
@given(
    parts=st.lists(st.lists(st.integers(1, 40), max_size=9), min_size=1, max_size=8),
    kb=st.floats(0.1, 30),
    version=st.sampled_from([1, 2]),
)
def test_rows_and_rejects_keep_their_order_and_the_index_is_that_of_the_files(parts, kb, version):
    source = write_dataset(f"memory://compact/{next(NUMBERS)}", parts, version=version)
    target = compacted(source, file_mb=kb / 1000)
    assert table(target).equals(table(source))
    if source.parts("rejects"):
        assert table(target, "rejects").equals(table(source, "rejects"))
    groups, seconds = zip(*real_row_groups(target), strict=True) if any(parts) else ((), ())
    assert list_row_groups(target) == list(groups)
    assert read_index(target)["audio_seconds"].to_pylist() == pytest.approx(seconds)
    assert verify_files(target, keys=False).faults == []


@given(
    sizes=st.lists(st.integers(0, 100), min_size=1, max_size=60),
    largest=st.floats(10, 300),
)
def test_files_are_about_equal_and_about_as_large_as_allowed(sizes, largest):
    counts = cut_evenly(sizes, [0] * len(sizes), largest)
    assert sum(counts) == len(sizes)
    assert min(counts) > 0
    ends = list(accumulate(counts, initial=0))
    files = [sum(sizes[start:end]) for start, end in pairwise(ends)]
    assert max(files) <= largest + max(sizes)
    if len(files) > 1:
        assert min(files) >= largest / 2 - max(sizes)


def test_a_file_has_at_most_ten_thousand_parts_and_a_million_rejects():
    assert cut_evenly([1] * 10_001, [0] * 10_001, 1e9) == [10_000, 1]
    assert cut_evenly([1] * 3, [2**19] * 3, 1e9) == [2, 1]


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    found = table(write_dataset("memory://regroup", PARTS))
    metadata = found["metadata"].dictionary_encode()
    found = found.set_column(found.column_names.index("metadata"), "metadata", metadata)
    recordings = pa.array([row // 3 for row in range(len(found))], pa.int32())
    return found.set_column(found.column_names.index("index"), "index", recordings)


@settings(max_examples=50)
@given(
    cuts=st.sets(st.integers(1, 11)),
    limits=st.tuples(st.integers(1, 9), st.integers(1, 600), st.integers(1, 60)),
)
def test_row_groups_have_all_rows_and_are_within_the_limits(rows, cuts, limits):
    places = [0, *sorted(cuts), len(rows)]
    found = list(regrouped((rows.slice(a, b - a) for a, b in pairwise(places)), *limits))
    assert [row for group in found for row in group.to_pylist()] == rows.to_pylist()
    for group in found:
        assert len(group) == 1 or all(a <= b for a, b in zip(sizes(group), limits, strict=True))
        [metadata] = group["metadata"].chunks
        assert len(metadata.dictionary) == len(metadata.drop_null().unique())
    for end, group in zip(accumulate(map(len, found)), found[:-1], strict=False):
        left = rows.slice(end)
        rest = left.filter(pa.array([one == recordings(left)[0] for one in recordings(left)]))
        longer = pa.concat_tables([group, rest])
        assert any(a > b for a, b in zip(sizes(longer, distinct=False), limits, strict=True))
        if recordings(group)[-1] == recordings(rest)[0]:
            assert len(set(recordings(group))) == 1  # too long for one table


def recordings(rows: pa.Table) -> list[tuple[str, int]]:
    return list(zip(rows["shard"].to_pylist(), rows["index"].to_pylist(), strict=True))


def sizes(group: pa.Table, distinct: bool = True) -> tuple[int, int, int]:
    metadata = group["metadata"].drop_null().to_pylist()
    texts = [*(set(metadata) if distinct else metadata), *filter(None, group["text"].to_pylist())]
    codes = sum(map(len, group["codes"].to_pylist()))
    return len(group), codes, sum(len(text.encode()) for text in texts)


def test_a_footer_says_all_that_the_footers_of_its_parts_say(source):
    names = sorted(source.parts())
    footers = source.footers(names)
    [one, *others] = sections_in("part-00000", joined_footer(names, footers))
    assert [section.footer for section in (one, *others)] == footers
    assert [section.part for section in (one, *others)] == names
    target = compacted(source, file_mb=1)
    [footer] = target.footers(target.parts())
    assert footer["frames"] == sum(map(sum, PARTS))
    assert {"codec", "precision", "libraries", "device"} <= footer.keys()


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_stopped_at_any_operation_and_resumed_a_compaction_gives_the_same_bytes(done):
    StoppingStore.begin()
    source = write_dataset(f"stopping://compact/{done}/out", [[3, 40], [60]])
    source.storage.put(f"{source.root}/runs/1/config.yaml", b"shards: []")
    source.storage.put(f"{source.root}/failed/x-0.json", json.dumps({"shard": "x"}).encode())
    StoppingStore.begin()
    target = compacted(source, without_failed=True)
    operations, calm = StoppingStore.operations, contents(target)
    assert len([name for name in calm if name.startswith("/tokens")]) == 2
    for n in range(operations):
        output = f"{source.root}-{n}"
        StoppingStore.begin(stop_after=n, done_before_stop=done)
        with pytest.raises(Stopped):
            compacted(source, output, without_failed=True)
        StoppingStore.begin()
        target = TokenDataset(output, source.storage)
        if "/index.parquet" not in contents(target):
            with pytest.raises(InputError):
                list_row_groups(target)
        compacted(source, output, without_failed=True)
        assert contents(target) == calm, f"stopped after operation {n}"


def stop_after_first_file(source: TokenDataset) -> TokenDataset:
    """A compaction that was killed, on any store."""

    class Stopping(Storage):
        def put_new(self, url: str, data: bytes) -> bool:
            super().put_new(url, data)
            if "/tokens/" in url:
                raise Stopped
            return True

    target = TokenDataset(f"{source.root}-compacted", Stopping())
    plan = recorded_plan(source, target, 0.004, without_failed=False)
    with contextlib.suppress(Stopped):
        list(write_files(plan, source, target, threads=1))
    return TokenDataset(target.root, source.storage)


def test_a_source_that_grew_is_compacted_to_the_files_that_were_planned(source):
    calm = table(source)
    target = stop_after_first_file(source)
    with pytest.raises(InputError, match="not compacted yet; run `speechmill compact` again"):
        target.require_identity()
    add_part(source, 99, [1])
    compacted(source)
    assert table(target).equals(calm)
    with pytest.raises(DatasetConflict, match="has 1 parts more by now; compact it into another"):
        compacted(source)


def test_a_finished_compaction_that_is_run_again_writes_nothing(source):
    before = contents(compacted(source))
    assert contents(compacted(source)) == before


@pytest.mark.parametrize("lost", ["index.parquet", "tokens/part-00001.parquet"])
def test_a_finished_compaction_that_lost_a_file_says_how_to_make_it_again(source, lost):
    target = compacted(source)
    before = contents(target)
    if lost == "index.parquet":
        target.storage.put(f"{target.root}/{lost}", b"")
    else:
        target.storage.delete(f"{target.root}/{lost}")
    with pytest.raises(InputError, match=rf"{lost} is .*; delete .*/index\.parquet, and the same"):
        compacted(source)
    target.storage.delete(f"{target.root}/index.parquet")
    assert contents(compacted(source)) == before


def test_a_damaged_plan_is_one_line_with_its_cure(source):
    target = stop_after_first_file(source)
    target.storage.put(f"{target.root}/plan.parquet", b"")
    with pytest.raises(InputError, match=r"plan\.parquet is damaged: .*; delete .* and compact"):
        compacted(source)


@pytest.mark.parametrize("state", ["is gone", "was replaced"])
def test_a_part_that_changed_since_the_plan_is_named(source, state):
    stop_after_first_file(source)
    url = source.part_url(max(source.parts()))
    source.storage.delete(url)
    if state == "was replaced":
        source.storage.put(url, b"other")
    with pytest.raises(DatasetConflict, match=rf"{url} {state} since .* compact again"):
        compacted(source)


@pytest.mark.parametrize("share", [0.3, 0.999])
@pytest.mark.parametrize("folder", ["tokens", "rejects"])
def test_a_damaged_file_is_named_in_one_line_and_no_dataset_is_made(source, folder, share):
    url = source.storage.list_files(f"{source.root}/{folder}")[-1].url
    data = bytearray(source.storage.read_bytes(url))
    data[int(share * len(data)) :] = b""
    source.storage.put(url, bytes(data))
    with pytest.raises(InputError, match="is damaged") as caught:
        compacted(source)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        TokenDataset(f"{source.root}-compacted", source.storage).require_identity()


def test_a_flipped_bit_in_a_page_of_a_part_is_found(source):
    url = source.part_url(max(source.parts()))
    data = bytearray(source.storage.read_bytes(url))
    codes = pq.read_metadata(url).row_group(0).column(1)
    first = codes.dictionary_page_offset or codes.data_page_offset
    data[first + codes.total_compressed_size - 1] ^= 1
    source.storage.put(url, bytes(data))
    with pytest.raises(InputError, match=f"{url} is damaged"):
        compacted(source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 1}, "its footer counts 1 rows, there are 2"),
        ({"frames": 1}, "its footer counts 1 frames, there are 4"),
        ({"bad_json": "x"}, "TypeError"),
        ({"source": {}}, "TypeError"),
        ({"rejects": 1}, "AttributeError"),
    ],
)
def test_a_footer_that_is_wrong_is_refused_in_one_line(source, change, message):
    url = source.part_url(max(source.parts()))
    rows = pq.read_table(url)
    footer = json.dumps(json.loads(rows.schema.metadata[b"speechmill"]) | change)
    pq.write_table(rows.replace_schema_metadata({"speechmill": footer}), url)
    with pytest.raises(InputError, match=f"{url} is damaged: .*{message}"):
        compacted(source)


def test_rows_whose_codes_are_not_those_of_their_frames_are_refused(source):
    url = source.part_url(max(source.parts()))
    rows = pq.read_table(url)
    field = rows.schema.field("codes")
    codes = pa.array([[1] * 8, [1] * 24], field.type)
    pq.write_table(rows.set_column(rows.schema.get_field_index("codes"), field, codes), url)
    with pytest.raises(InputError, match="a row has another number of codes"):
        compacted(source)


def test_a_dataset_that_was_begun_in_the_folder_of_a_plan_stays(source):
    target = stop_after_first_file(source)
    target.storage.put(f"{target.root}/dataset.json", b"{}")
    with pytest.raises(DatasetConflict, match="holds another dataset by now; set another folder"):
        compacted(source)


def test_rejects_that_are_missing_are_named(source):
    source.storage.delete(source.storage.list_files(f"{source.root}/rejects")[0].url)
    with pytest.raises(InputError, match="its footer counts 1 rejects, there are 0"):
        compacted(source)


def test_parts_of_another_codec_and_two_parts_of_one_tar_are_refused_by_name(source, tmp_path):
    other = write_dataset(str(tmp_path / "each"), [[1]], version=2)
    [name] = other.parts()
    url = source.part_url(name.replace("shard-0000", "shard-9999"))
    source.storage.put(url, other.storage.read_bytes(other.part_url(name)))
    with pytest.raises(DatasetConflict, match=f"{url} is a part of another dataset: schema_vers"):
        compacted(source)
    twin = min(source.parts())
    source.storage.put(url, source.storage.read_bytes(source.part_url(twin)))
    with pytest.raises(DatasetConflict, match=r"are both of /in/shard-0000\.tar; delete one"):
        compacted(source)


def test_what_a_store_changed_is_found_when_it_is_read_back(source, monkeypatch):
    def flip(self: Storage, url: str, data: bytes) -> bool:
        if "/tokens/" in url:
            data = data[:300] + bytes([data[300] ^ 1]) + data[301:]
        self.put(url, data)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put_new", flip)
        with pytest.raises(StorageError, match=r"tokens/part-00000\.parquet is not what was writt"):
            compacted(source)
    assert table(compacted(source)).equals(table(source))


def test_after_a_full_disk_a_compaction_goes_on(source, monkeypatch):
    put_new = Storage.put_new

    def full(self: Storage, url: str, data: bytes) -> bool:
        if "part-00001" in url:
            raise StorageFull(f"{url}: no space left on device")
        return put_new(self, url, data)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put_new", full)
        with pytest.raises(StorageFull):
            compacted(source)
    assert table(compacted(source)).equals(table(source))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out", "is in the dataset; set a folder outside"),
        ("out/tokens/x", "is in the dataset"),
        ("used", r"used holds other files, such as .*/used/a\.txt; set another"),
        ("other", r"other holds other files, such as .*dataset\.json"),
    ],
)
def test_a_folder_that_is_not_empty_is_refused(source, tmp_path, output, message):
    source.storage.put(f"{tmp_path}/used/a.txt", b"")
    write_dataset(f"{tmp_path}/other", [[1]])
    with pytest.raises(InputError, match=message):
        compacted(source, f"{tmp_path}/{output}")


def test_two_compactions_that_begin_at_once_have_one_plan(source, monkeypatch):
    check = _refuse_used

    def check_late(target: TokenDataset) -> None:
        monkeypatch.undo()
        compacted(source)
        check(target)

    monkeypatch.setattr("speechmill.pipeline.dataset.compact.plan._refuse_used", check_late)
    assert len(compacted(source).parts()) > 1


def test_another_dataset_or_size_into_a_planned_folder_is_refused(source, tmp_path):
    target = stop_after_first_file(source)
    with pytest.raises(DatasetConflict, match=r"begun with --file-mb 0\.004; give it again"):
        compacted(source, file_mb=1)
    other = write_dataset(f"{tmp_path}/other", [[1]], version=2)
    with pytest.raises(DatasetConflict, match="schema_version = 1, here it is 2; set another"):
        compacted(other, target.root)
    fewer = write_dataset(f"{tmp_path}/fewer", PARTS[:2])
    with pytest.raises(DatasetConflict, match="was replaced since"):
        compacted(fewer, target.root)


@pytest.mark.parametrize("file_mb", [0, -1, float("nan"), 4097])
def test_a_size_that_is_none_is_refused(source, file_mb):
    with pytest.raises(InputError, match=r"file_mb is .*; give"):
        compacted(source, file_mb=file_mb)


def test_a_number_of_threads_out_of_range_is_refused(source):
    with pytest.raises(InputError, match="threads is 0; give 1 to 16"):
        compacted(source, threads=0)


def test_failed_shards_are_only_left_out_if_the_user_says_so(source):
    record = {"shard": "x.tar", "error": "ShardCut", "message": "cut", "attempts": 1}
    done = min(source.parts())
    for name in ("x-0123456789ab", done):  # a run clears the record of a shard that it finishes
        source.storage.put(f"{source.root}/failed/{name}.json", json.dumps(record).encode())
    with pytest.raises(InputError, match=r"1 shards of .*out failed, such as x\.tar; run `spee"):
        compacted(source)
    target = compacted(source, without_failed=True)
    assert target.failures() == [record]


def test_a_dataset_without_parts_is_not_compacted(tmp_path):
    with pytest.raises(InputError, match="no parts yet; run `speechmill tokenize` first"):
        compacted(write_dataset(f"{tmp_path}/out", []))


def test_a_compacted_dataset_is_not_compacted_again(source):
    target = compacted(source)
    with pytest.raises(InputError, match=f"is compacted already; compact {source.root}, its sourc"):
        compacted(target)


def test_an_index_is_only_read_if_it_names_parts(source):
    target = compacted(source)
    url, index = f"{target.root}/index.parquet", read_index(target)
    target.storage.delete(url)
    with pytest.raises(InputError, match=r"index\.parquet is missing: .* run `speechmill compact`"):
        list_row_groups(target)
    for damaged in (
        index.drop_columns(["rows"]),
        index.set_column(0, index.field(0), pa.array(["../../x"] * len(index))),
    ):
        pq.write_table(damaged, url)
        with pytest.raises(InputError, match=r"index\.parquet is damaged"):
            list_row_groups(target)


def test_verify_finds_a_file_that_is_missing_and_one_that_is_new(source):
    target = compacted(source)
    name = max(target.parts())
    data = target.storage.read_bytes(target.part_url(name))
    target.storage.delete(target.part_url(name))
    [fault] = verify_files(target, keys=False).faults
    assert (fault.check, fault.file) == ("index", "index.parquet")
    target.storage.put(target.part_url(name), data)
    target.storage.put(f"{target.root}/tokens/x-0123456789ab.parquet", data)
    [fault] = verify_files(target, keys=False).faults
    assert fault.check == "name"


def test_names_of_parts_in_a_footer_lead_nowhere_else(source):
    footer = joined_footer(["../x-0123456789ab"], source.footers([min(source.parts())]))
    with pytest.raises(ValueError, match="is not the name of a part"):
        sections_in("part-00000", footer)
