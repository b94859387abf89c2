"""Dropped rows leave a dataset as if they had never been tokenized, and stay out."""

import contextlib
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from speechmill.jobs.commands import compact as compaction
from speechmill.jobs.commands import tokenize as command
from speechmill.jobs.commands.compact import compact_dataset
from speechmill.jobs.commands.drop import drop_from_dataset
from speechmill.jobs.commands.status import read_status
from speechmill.jobs.commands.tokenize import tokenize_shards
from speechmill.jobs.config import from_overrides
from speechmill.jobs.display import Display, ShardDisplay
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.audio.isolation import kept_process
from speechmill.pipeline.dataset import drop_part as module
from speechmill.pipeline.dataset.drop import write_record
from speechmill.pipeline.dataset.duplicates import find_duplicates
from speechmill.pipeline.dataset.export.source import source_parts
from speechmill.pipeline.dataset.key_file import SCHEMA, read_keys, write_keys
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.reader import TokenReader
from speechmill.pipeline.dataset.verify import verify_files
from speechmill.pipeline.errors import DatasetConflict, InputError, RejectStage
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.drops import SCHEMA as ENTRIES
from speechmill.pipeline.tokenize.drops import Drops, key_sha256
from tests.corpus import clip, encode, tar_bytes, tone
from tests.stopping_store import Stopped, StoppingStore

STORE = "stopping://drop"
STARTS = {"start": [0.0, 0.4], "end": [0.3, 0.7], "text": ["one", "two"]}


@pytest.fixture(autouse=True, scope="module")
def decoding_process():
    with kept_process():
        yield


def tokenize(root: str, *settings: str, console: Console | None = None) -> TokenDataset:
    wanted = [f"shards=[{root}/in]", f"output={root}/out", "codec.name=null", "workers.count=0"]
    config = from_overrides(TokenizeConfig, [*wanted, "workers.num_gpus=0", *settings])
    tokenize_shards(config, ShardDisplay(console or Console(quiet=True)))
    return TokenDataset(f"{root}/out", Storage())


def write_tars(root: str) -> None:
    """Two tars of three clips with JSON, of which `twin` is in both, and one that is no audio."""
    for name in ("a", "b"):
        members = [(f"{name}/{i}.flac", clip(0.8, ord(name) + i)) for i in range(2)]
        members += [(f"{name}/bad.flac", b"junk"), ("twin.flac", clip(0.8, 7))]
        keys = [member.removesuffix(".flac") for member, _ in members]
        texts = [json.dumps(STARTS | {"said": key}).encode() for key in keys]
        pairs = zip(members, keys, texts, strict=True)
        tar = tar_bytes([m for flac, key, text in pairs for m in (flac, (f"{key}.json", text))])
        Storage().put(f"{root}/in/{name}.tar", tar)


@pytest.fixture
def root(tmp_path) -> str:
    write_tars(str(tmp_path))
    return str(tmp_path)


@pytest.fixture
def dataset(root) -> TokenDataset:
    return tokenize(root)


def drop(dataset: TokenDataset, text: str | None = None, **options):
    """Drop the keys of a plain file, or what the options say."""
    keys = None
    if text is not None:
        keys = f"{dataset.root}.txt"
        dataset.storage.put(keys, text.encode())
    options = {"where": None, "dry_run": False, **options}
    return drop_from_dataset(dataset.root, options.pop("keys", keys), overrides=[], **options)


def files(dataset: TokenDataset, *folders: str) -> dict[str, bytes]:
    infos = [i for f in folders for i in dataset.storage.list_files(f"{dataset.root}/{f}")]
    return {info.url: dataset.storage.read_bytes(info.url) for info in infos}


def rows(dataset: TokenDataset, folder: str = "tokens") -> list[dict]:
    return [row for name in sorted(dataset.parts(folder)) for row in part(dataset, folder, name)]


def part(dataset: TokenDataset, folder: str, name: str) -> list[dict]:
    return pq.read_table(f"{dataset.root}/{folder}/{name}.parquet").to_pylist()


def faults(dataset: TokenDataset) -> list:
    return verify_files(dataset, sources=[f"{dataset.root[:-4]}/in"], keys=True).faults


def test_a_dropped_key_leaves_every_part_and_the_rest_stays_bit_for_bit(dataset):
    before = rows(dataset)
    found = drop(dataset, "twin\na/0\nnobody\n")
    assert (found.rows, found.parts_changed, found.entries, found.unmatched) == (3, 2, 3, 1)
    assert rows(dataset) == [row for row in before if row["key"] not in ("twin", "a/0")]
    assert faults(dataset) == []
    assert read_status(dataset).dropped == 3


def test_a_part_that_is_tokenized_again_is_the_one_that_drop_wrote(dataset, root):
    drop(dataset, "twin\na/bad\n")
    dropped = files(dataset, "tokens", "rejects")
    for url in dropped:
        dataset.storage.delete(url)
    tokenize(root)
    assert files(dataset, "tokens", "rejects") == dropped


@pytest.mark.parametrize(
    "segment",
    [
        ["segment.by=metadata"],
        ["segment.by=fixed", "segment.seconds=0.4", "filters.min_seconds=0.35"],
        ["segment.by=metadata", "audio.channels=each"],
    ],
    ids=["metadata", "fixed", "each"],
)
def test_single_segments_are_dropped_by_a_condition_and_stay_out(root, segment):
    stereo = encode(tone(0.8, seed=3)[:, None] * [1.0, 0.5])
    members = [("s.flac", stereo), ("s.json", json.dumps(STARTS).encode())]
    Storage().put(f"{root}/in/s.tar", tar_bytes(members))
    dataset = tokenize(root, *segment)
    before = rows(dataset)
    condition = "start > 0 and (channel is None or channel == 1) and key != 'twin'"
    kept = [
        r
        for r in before
        if not (r["start"] and r.get("channel") in (None, 1) and r["key"] != "twin")
    ]
    assert drop(dataset, where=condition).rows == len(before) - len(kept) > 2
    assert rows(dataset) == kept
    assert faults(dataset) == []
    dropped = files(dataset, "tokens", "rejects")
    for url in dropped:
        dataset.storage.delete(url)
    tokenize(root, *segment)
    assert files(dataset, "tokens", "rejects") == dropped


def test_no_file_of_the_dataset_names_a_dropped_sample(dataset):
    drop(dataset, "a/0\nb/bad\n")
    for folder in ("tokens", "rejects", "dropped"):
        for row in rows(dataset, folder):
            assert not {"a/0", "b/bad"} & set(map(str, row.values()))
    [reject] = [r for r in rows(dataset, "rejects") if r["key"] == f"sha256:{key_sha256('a/0')}"]
    assert (reject["stage"], reject["error"], reject["member"]) == ("drop", "Dropped", "")


def compacted(dataset: TokenDataset, name: str) -> TokenDataset:
    output, display = f"{dataset.root}-{name}", Display(Console(quiet=True))
    options = {"file_mb": 1.0, "without_failed": False, "threads": 1, "overrides": []}
    compact_dataset(dataset.root, output, **options, display=display)
    return TokenDataset(output, dataset.storage)


@pytest.mark.parametrize("wanted", [{"text": "twin\na/bad\n"}, {"where": "key in ['b/0', 'twin']"}])
def test_dropping_from_a_compacted_dataset_is_compacting_what_is_left(dataset, wanted):
    small = compacted(dataset, "before")
    assert drop(small, **wanted).rows == drop(dataset, **wanted).rows
    assert faults(dataset) == verify_files(small).faults == []
    left = compacted(dataset, "after")
    for folder in ("tokens", "rejects", "index.parquet"):
        one, other = ([*files(each, folder).values()] for each in (small, left))
        assert one == other
    assert drop(small, **wanted).parts_changed == 0


def test_a_compaction_is_finished_before_rows_are_dropped_from_it(dataset):
    small = compacted(dataset, "small")
    small.storage.delete(f"{small.root}/index.parquet")
    before = files(small, "")
    with pytest.raises(InputError, match="is not compacted yet; run `speechmill compact` again"):
        drop(small, "twin\n")
    assert files(small, "") == before


def test_an_index_from_before_a_drop_is_renewed_by_the_next_one(dataset):
    small = compacted(dataset, "small")
    before = small.storage.read_bytes(f"{small.root}/index.parquet")
    drop(small, "twin\n")
    small.storage.put(f"{small.root}/index.parquet", before)
    assert "after a `speechmill drop` that was killed" in verify_files(small).faults[0].message
    drop(small)
    assert verify_files(small).faults == []


def test_all_rows_of_a_part_can_be_dropped(dataset):
    assert drop(dataset, where="True").rows == 6
    assert rows(dataset) == []
    assert faults(dataset) == []


def test_a_dry_run_counts_and_writes_nothing(dataset):
    before = files(dataset, "")
    found = drop(dataset, "twin\n", dry_run=True)
    assert (found.rows, found.parts_changed) == (2, 2)
    assert files(dataset, "") == before


def test_the_same_call_again_changes_nothing(dataset):
    first = drop(dataset, "twin\na/bad\n")
    after = files(dataset, "")
    again = drop(dataset, "twin\na/bad\n")
    assert (again.rows, again.parts_changed, again.unmatched) == (0, 0, first.unmatched)
    assert drop(dataset, where="key == 'a/0' and False").rows == 0
    assert files(dataset, "") == after


def test_a_shard_that_comes_later_is_tokenized_without_what_was_dropped(dataset, root):
    drop(dataset, "twin\n")
    Storage().put(f"{root}/in/c.tar", tar_bytes([("twin.flac", clip(0.5)), ("c.flac", clip(0.5))]))
    tokenize(root)
    assert [row["key"] for row in rows(dataset)] == ["a/0", "a/1", "b/0", "b/1", "c"]
    assert faults(dataset) == []


def test_a_hash_and_a_place_narrow_an_entry(dataset):
    first, second = (row for row in rows(dataset) if row["key"] == "twin")
    entry = {name: first[name] for name in ("key", "audio_xxh3", "shard", "index", "start")}
    Storage().put(f"{dataset.root}.jsonl", json.dumps(entry).encode())
    assert drop(dataset, keys=f"{dataset.root}.jsonl").rows == 1
    assert [row for row in rows(dataset) if row["key"] == "twin"] == [second]
    entry = {"audio_xxh3": second["audio_xxh3"]}
    Storage().put(f"{dataset.root}.jsonl", json.dumps(entry).encode())
    assert drop(dataset, keys=f"{dataset.root}.jsonl").rows == 1
    assert "twin" not in [row["key"] for row in rows(dataset)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_key_file_comes_back_as_it_was_written(tmp_path, suffix):
    columns = {
        "key": ["12", 'a,"b"', None, "NA"],
        "audio_xxh3": [2**64 - 1, None, 3, 4],
        "dataset": ["s3://a/b", None, None, None],
        "shard": ["s3://a/x.tar", None, None, None],
        "index": [1, None, None, 0],
        "start": [0.1 + 0.2, None, None, 0.0],
        "channel": [1, None, None, 0],
    }
    table = pa.table(columns, schema=SCHEMA)
    write_keys(table.append_column("other", [[1, 2, 3, 4]]), f"{tmp_path}/k.{suffix}", Storage())
    assert read_keys(f"{tmp_path}/k.{suffix}", Storage()).equals(table)


@pytest.mark.parametrize(
    ("name", "data", "named"),
    [
        ("k.txt", b"", "is not a list of keys: it is empty"),
        ("k.txt", b"\n\r\n", "is not a list of keys: it is empty"),
        ("k.txt", b"\xff\xfe\x00", "is not a list of keys: .*utf-8"),
        ("k.csv", b"", "is not a list of keys: Empty CSV"),
        ("k.csv", b"name,duration\nx,1\n", r"no column key or audio_xxh3, only \['name', 'dur"),
        ("k.csv", b"key,audio_xxh3\n,\n", "entry 1 has neither"),
        ("k.csv", b"audio_xxh3\n-1\n", "is not a list of keys"),
        ("k.jsonl", b'{"key": "a"}\n{"text": "b"}', "entry 2 has neither"),
        ("k.jsonl", b'{"key": 7}', "is not a list of keys"),
        ("k.jsonl", b'["a"]', "entry 1 is not an object"),
        ("k.jsonl", b'{"audio_xxh3": 36893488147419103232}', "is not a list of keys: .*too large"),
        ("k.jsonl", b'{"audio_xxh3": -1}', "is not a list of keys: .*negative"),
        ("k.jsonl", b'{"key": "a", "index": 0.9}', "index 0.9 is not an integer"),
        ("k.jsonl", b'{"key": "a", "start": NaN}', "a start is NaN"),
        ("k.csv", b"key,shard,key\na,b,c\n", "it has two columns key"),
        ("k.jsonl", b"[" * 10**5, "is not a list of keys"),
        ("k.parquet", b"PAR1", "is not a list of keys"),
        ("k.jsonl", b'{"key": "a", "dataset": "s3://other"}', "no entry is of .*s3://other"),
    ],
)
def test_a_bad_key_file_is_named_and_nothing_is_dropped(dataset, name, data, named):
    before = files(dataset, "")
    dataset.storage.put(f"{dataset.root}-{name}", data)
    with pytest.raises(InputError, match=named):
        drop(dataset, keys=f"{dataset.root}-{name}")
    assert files(dataset, "") == before


def test_hashes_that_pandas_made_floats_are_refused(tmp_path):
    """2 ** 63 + 1 would be 2 ** 63, the hash of another recording or of none."""
    table = pa.table({"key": ["a", None], "audio_xxh3": [None, float(2**63 + 1)]})
    pq.write_table(table, tmp_path / "k.parquet")
    with pytest.raises(InputError, match=r"k\.parquet .* audio_xxh3 has floats"):
        read_keys(f"{tmp_path}/k.parquet", Storage())


def test_a_damaged_record_is_named_and_nothing_is_tokenized_past_it(dataset, root):
    dataset.storage.put(f"{dataset.root}/dropped/x.parquet", b"junk")
    with pytest.raises(InputError, match=r"dropped/x\.parquet is damaged"):
        tokenize(root)


def test_columns_of_other_types_never_raise_anything_else(dataset):
    [name, _] = sorted(dataset.parts())
    for folder, column in (("tokens", "audio_xxh3"), ("tokens", "key"), ("rejects", "num_bytes")):
        url = f"{dataset.root}/{folder}/{name}.parquet"
        whole, table = dataset.storage.read_bytes(url), pq.read_table(url)
        place = table.column_names.index(column)
        for value in (None, -1, "x", [1]):
            pq.write_table(table.set_column(place, column, pa.array([value] * len(table))), url)
            for call in (lambda: drop(dataset, "twin\n"), lambda: find_duplicates([dataset])):
                with contextlib.suppress(InputError):
                    call()
        dataset.storage.put(url, whole)


def record(dataset: TokenDataset, key: str) -> None:
    """What a `drop` that was killed at once has done."""
    entry = dict.fromkeys(ENTRIES.names) | {"key_sha256": key_sha256(key)}
    write_record(dataset, Drops.of([pa.Table.from_pylist([entry], schema=ENTRIES)]))


def test_verify_finds_rows_that_a_record_names(dataset):
    record(dataset, "twin")
    assert {fault.check for fault in faults(dataset)} == {"dropped"}
    assert drop(dataset).rows == 2
    assert faults(dataset) == []


def test_rows_that_a_stopped_drop_left_are_neither_read_nor_exported(dataset):
    record(dataset, "twin")
    for use in (TokenReader, source_parts):
        with pytest.raises(
            InputError, match=f"a `drop` was to take out; run `speechmill drop {dataset.root}`"
        ):
            use(dataset)
    drop(dataset)
    assert len(list(TokenReader(dataset))) == 4
    assert len(source_parts(dataset)) == 2


def test_rows_that_a_record_names_are_not_compacted(dataset):
    record(dataset, "a/bad")
    with pytest.raises(InputError, match=f"1 parts of {dataset.root} hold .* `speechmill drop"):
        compacted(dataset, "small")
    drop(dataset)
    assert verify_files(compacted(dataset, "small")).faults == []


def test_a_drop_during_a_compaction_ends_it_with_the_cure(dataset, monkeypatch):
    write = compaction.write_files

    def interrupted(*arguments):
        yield from write(*arguments)
        drop(dataset, "twin\n")

    monkeypatch.setattr(compaction, "write_files", interrupted)
    with pytest.raises(DatasetConflict, match=r"was replaced since .*-small was planned; delete"):
        compacted(dataset, "small")
    assert not Storage().exists(f"{dataset.root}-small/dataset.json")


def test_a_run_says_that_rows_were_dropped_while_it_ran(dataset, root, monkeypatch):
    """It gave its workers the records that were there when it began."""
    Storage().put(f"{root}/in/c.tar", tar_bytes([("c.flac", clip(0.5)), ("d.flac", clip(0.5))]))
    run = command.run_shards

    def interrupted(*arguments):
        drop(dataset, "c\n")
        return run(*arguments)

    monkeypatch.setattr(command, "run_shards", interrupted)
    tokenize(root, console=Console(file=(sink := io.StringIO()), width=999))
    assert "rows were dropped while this run wrote: run `speechmill drop" in sink.getvalue()
    assert [fault.check for fault in faults(dataset)] == ["dropped"]
    with pytest.raises(InputError, match=f"run `speechmill drop {dataset.root}` first"):
        TokenReader(dataset)
    assert drop(dataset).rows == 1
    assert faults(dataset) == []
    assert len(list(TokenReader(dataset))) == 7


def test_of_two_calls_at_the_same_time_none_brings_rows_back(dataset, monkeypatch):
    """The other call comes while this one has read a part and not written it yet."""
    rewrite, others = module._rewrite, iter(["b/0\n"])

    def interrupted(*arguments):
        for keys in others:
            drop(dataset, keys)
        rewrite(*arguments)

    monkeypatch.setattr(module, "_rewrite", interrupted)
    drop(dataset, "b/1\ntwin\n")
    assert [row["key"] for row in rows(dataset)] == ["a/0", "a/1"]
    assert faults(dataset) == []


def test_rows_that_one_of_two_calls_brought_back_before_it_was_killed_are_not_read(
    dataset, monkeypatch
):
    """The other call is complete, and this one had read the part before."""
    rewrite = module._rewrite

    def killed(*arguments):
        monkeypatch.setattr(module, "_rewrite", rewrite)
        drop(dataset, "b/0\n")
        rewrite(*arguments)
        raise Stopped

    monkeypatch.setattr(module, "_rewrite", killed)
    with pytest.raises(Stopped):
        drop(dataset, "b/1\n")
    assert "b/0" in [row["key"] for row in rows(dataset)]
    with pytest.raises(InputError, match="may still have rows"):
        TokenReader(dataset)
    drop(dataset)
    assert "b/0" not in [row["key"] for row in TokenReader(dataset, columns=["key"])]


def test_a_call_marks_no_record_that_came_after_it_looked(dataset, monkeypatch):
    parts = dataset.parts

    def meanwhile(folder=None):
        found = parts(folder)
        if folder == "dropped" and not any("applied" in url for url in files(dataset, "dropped")):
            record(dataset, "b/0")
        return found

    monkeypatch.setattr(TokenDataset, "parts", lambda self, folder=None: meanwhile(folder))
    drop(dataset, "b/1\n")
    monkeypatch.undo()
    with pytest.raises(InputError, match="may still have rows"):
        TokenReader(dataset)


@pytest.mark.parametrize(
    ("by", "done", "kind"),
    [("keys", True, "parts"), ("where", False, "parts"), ("keys", False, "compacted")],
)
def test_stopped_at_any_operation_and_called_again_it_gives_the_same_bytes(by, done, kind):
    store = f"{STORE}-{by}-{done}"
    StoppingStore.begin()
    write_tars(store)
    whole = tokenize(store)
    if kind == "compacted":
        whole = compacted(whole, "small")
    folder = f"/{whole.root.partition('://')[2].strip('/')}/"
    wanted = {"text": "twin\na/bad\n"} if by == "keys" else {"where": "key in ['twin', 'a/0']"}
    untouched = StoppingStore.files(folder)
    StoppingStore.begin()
    drop(whole, **wanted)
    operations, calm = StoppingStore.operations, StoppingStore.files(folder)
    assert calm != untouched
    for n in range(operations):
        StoppingStore.begin()
        for name in StoppingStore.files(folder):
            StoppingStore.store.pop(f"{folder}{name}")
        for name, data in untouched.items():
            whole.storage.put(f"{whole.root}/{name}", data)
        StoppingStore.begin(stop_after=n, done_before_stop=done)
        with contextlib.suppress(Stopped):
            drop(whole, **wanted)
        StoppingStore.begin()
        drop(whole, **wanted)
        assert StoppingStore.files(folder) == calm, f"stopped after operation {n}"


KEYS = st.sampled_from("abc")
ENTRY = st.fixed_dictionaries(
    {"key_sha256": KEYS.map(key_sha256) | st.none(), "audio_xxh3": st.integers(0, 3) | st.none()},
    optional={"shard": st.sampled_from("pq"), "index": st.integers(0, 5)}
    | {"start": st.sampled_from([0.0, 0.5]), "channel": st.integers(0, 1)},
)


@given(
    st.lists(st.tuples(KEYS, st.integers(0, 3), st.integers(0, 1)), max_size=6),
    st.lists(ENTRY, max_size=4),
    st.lists(ENTRY, max_size=4),
)
def test_dropping_twice_is_dropping_both(samples, first, second):
    table = pa.table(
        {
            "key": pa.array([key for key, _, _ in samples for _ in range(4)], pa.string()),
            "audio_xxh3": pa.array([x for _, x, _ in samples for _ in range(4)], pa.uint64()),
            "index": pa.array([i for i in range(len(samples)) for _ in range(4)], pa.int32()),
            "start": pa.array([0.0, 0.0, 0.5, 0.5] * len(samples), pa.float64()),
            "end": pa.array([0.5, 0.5, 1.0, 1.0] * len(samples), pa.float64()),
            "channel": pa.array([0, 1, 0, 1] * len(samples), pa.uint8()),
        }
    )
    rejects = [
        Reject(key, index, f"{key}.flac", RejectStage.FILTER, "TooShort", "", 9, 3.0 * bad, 4.0)
        for index, (key, _, bad) in enumerate(samples)
    ]
    one, two = (Drops.of([pa.Table.from_pylist(each, schema=ENTRIES)]) for each in (first, second))
    both = Drops.of([one.entries, two.entries])
    kept = one.applied(table, rejects, "p")
    kept = two.applied(kept.table, kept.rejects, "p")
    together = both.applied(table, rejects, "p")
    assert together.table.equals(kept.table)
    assert set(together.rejects) == set(kept.rejects)
    again = both.applied(together.table, together.rejects, "p")
    assert (again.table, again.rejects) == (together.table, together.rejects)
