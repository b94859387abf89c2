"""Take rows out of a token dataset, and keep them out.

What is dropped is recorded first, in `dropped/`, under a name that is the digest of the record.
Then every part is written again without these rows, as the writer would have written it. `tokenize`
gives the records to its workers, so that a shard that is read again gives the same part. After a
kill at any point, the same command, or one that names nothing, does the rest.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.audio.recordings import EACH
from speechmill.pipeline.dataset.layout import COMPACTED, TokenDataset, readable, shard_of
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import Dropped, InputError
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.storage import join
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.drops import COLUMNS, SCHEMA, Drops, key_sha256
from speechmill.pipeline.tokenize.schema import reject_schema, reject_table, rejects_of
from speechmill.pipeline.tokenize.writer import PartWriter, read_footer

FOLDER = "dropped"  # of the records
DROPPED = Dropped.__name__
_THREADS = 8  # each holds one part in memory
_COUNTED = ("rows", "frames", "audio_seconds", "rejects", "bad_json", "cleaned", "passed_over")

Result = TypeVar("Result")


@dataclass(slots=True)
class DropReport:
    """What was dropped, or would be."""

    entries: int  # that this call names
    records: int  # in dropped/, with that of this call
    parts: int = 0  # of the dataset
    parts_changed: int = 0
    rows: int = 0
    audio_seconds: float = 0.0
    found: set[int] = field(default_factory=set)  # positions of entries that select something

    @property
    def unmatched(self) -> int:
        return self.entries - len(self.found)


@dataclass(frozen=True, slots=True)
class _Change:
    """What one part loses."""

    rows: int
    audio_seconds: float
    found: set[int]
    changed: bool


def read_records(dataset: TokenDataset) -> dict[str, pa.Table]:
    """The entries of every record, by its name; raises `InputError` for a damaged one."""
    names = sorted(dataset.parts(FOLDER))
    return {name: _read_record(dataset, name) for name in names}


def read_drops(dataset: TokenDataset) -> Drops | None:
    """All entries that are recorded; None without a record."""
    records = read_records(dataset)
    return Drops.of(list(records.values())) if records else None


def _record_url(dataset: TokenDataset, name: str) -> str:
    return join(dataset.root, FOLDER, f"{name}.parquet")


def _read_record(dataset: TokenDataset, name: str) -> pa.Table:
    url = _record_url(dataset, name)
    data = dataset.storage.read_bytes(url)
    with readable(url):
        return pq.read_table(io.BytesIO(data)).select(SCHEMA.names).cast(SCHEMA)


def write_record(dataset: TokenDataset, drops: Drops) -> None:
    """Record entries; equal ones have one record, whenever and however often they are dropped."""
    sink = io.BytesIO()
    pq.write_table(drops.entries, sink, compression="zstd", write_page_checksum=True)
    name = hashlib.sha256(sink.getvalue()).hexdigest()[:16]
    dataset.storage.put_new(_record_url(dataset, name), sink.getvalue())


def named_entries(keys: pa.Table, dataset: TokenDataset) -> tuple[pa.Table, int]:
    """The entries of a key file that concern a dataset, and how many are of other datasets.

    Raises `InputError` if all of them are of others.
    """
    own = keys["dataset"].fill_null(dataset.root).to_pylist()
    mine = keys.filter(pa.array([root == dataset.root for root in own], pa.bool_()))
    if len(keys) and not len(mine):
        other = next(root for root in own if root != dataset.root)
        raise InputError(f"no entry is of {dataset.root}; they are of datasets such as {other}")
    hashes = [None if key is None else key_sha256(key) for key in mine["key"].to_pylist()]
    columns = {name: mine[name] for name in SCHEMA.names if name in mine.column_names}
    columns["key_sha256"] = pa.array(hashes, pa.string())
    return _entries(columns, dataset.require_identity()), len(keys) - len(mine)


def selected_entries(where: Where, dataset: TokenDataset) -> pa.Table:
    """An entry for each row that a condition selects and no record drops yet."""
    identity, drops = dataset.require_identity(), read_drops(dataset) or Drops.of([])

    def selected(name: str) -> pa.Table:
        wanted = dict.fromkeys([*COLUMNS, "shard", *where.columns])
        table = dataset.read_columns(name, list(wanted))
        with readable(dataset.part_url(name)):
            if len(table):
                table = drops.applied(table, [], table["shard"][0].as_py()).table
            rows = where.select(table)
            columns = {name: rows[name] for name in SCHEMA.names if name in rows.column_names}
            columns["key_sha256"] = pa.array(map(key_sha256, rows["key"].to_pylist()), pa.string())
            return _entries(columns, identity)

    return Drops.of(_of_all_parts(selected, sorted(dataset.parts()))).entries


def _entries(columns: dict[str, Any], identity: dict[str, Any]) -> pa.Table:
    """Entries of the given columns; one without segments or channels is for the whole sample."""
    unused = {
        "start": identity.get("segment", "none") == "none",
        "channel": identity.get("channels") != EACH,
    }
    count = len(columns["key_sha256"])
    arrays = [
        pa.nulls(count, kind.type)
        if unused.get(kind.name) or kind.name not in columns
        else columns[kind.name].cast(kind.type)
        for kind in SCHEMA
    ]
    return pa.table(arrays, schema=SCHEMA)


def drop_rows(dataset: TokenDataset, wanted: pa.Table, dry_run: bool = False) -> DropReport:
    """Record entries, then rewrite every part that holds what a record names.

    Of two calls at the same time, each applies all records, and looks for new ones before it ends:
    no rows come back, whichever writes a part last. With `dry_run`, nothing is written. Raises
    `InputError` for a compacted dataset and for damaged files.
    """
    if COMPACTED in dataset.require_identity():
        raise InputError(
            f"{dataset.root} is compacted; drop from the dataset that it was made from, and "
            "compact that one again into a new folder"
        )
    mine = Drops.of([wanted])
    if len(mine) and not dry_run:
        write_record(dataset, mine)
    records = read_records(dataset)
    report = DropReport(len(mine), len(records))
    while True:
        _apply(dataset, Drops.of([mine.entries, *records.values()]), report, dry_run)
        if dry_run or records.keys() == dataset.parts(FOLDER):
            return report
        records = read_records(dataset)


def _apply(dataset: TokenDataset, drops: Drops, report: DropReport, dry_run: bool) -> None:
    names, rejected = sorted(dataset.parts()), dataset.parts("rejects")
    concerned = [name for name in names if drops.may_concern(name)]

    def change(name: str) -> _Change:
        return _change_part(dataset, name, name in rejected, drops, dry_run)

    report.parts = len(names)
    for one in _of_all_parts(change, concerned):
        report.parts_changed += one.changed
        report.rows += one.rows
        report.audio_seconds += one.audio_seconds
        report.found |= {number for number in one.found if number < report.entries}


def _of_all_parts(work: Callable[[str], Result], names: Iterable[str]) -> list[Result]:
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(work, names))


def _change_part(
    dataset: TokenDataset, name: str, has_rejects: bool, drops: Drops, dry_run: bool
) -> _Change:
    """Rewrite one part, and its rejects before it, if it holds what is dropped."""
    url = dataset.part_url(name)
    data = dataset.storage.read_bytes(url)
    with readable(url):
        footer = read_footer(data)
        shard, version = shard_of(footer), footer["schema_version"]
        if shard.name != name:  # it would be written over another part
            raise ValueError(f"it is named for another tar than {shard.url}")
        table = pq.ParquetFile(io.BytesIO(data)).read([*COLUMNS, "duration"])
    before = _read_rejects(dataset, name, version) if has_rejects else []
    kept = drops.applied(table, before, shard.url)
    after = reject_table(kept.rejects, shard.url, version)
    # A call that was killed between the two files has dropped from the first one only.
    counted = footer["rejects"].get(DROPPED, 0) == Counter(after["error"].to_pylist())[DROPPED]
    same = len(kept.table) == len(table) and after.equals(reject_table(before, shard.url, version))
    if not (same and counted) and not dry_run:
        _rewrite(dataset, data, before, drops)
    seconds = [pc.sum(rows["duration"]).as_py() or 0.0 for rows in (table, kept.table)]
    lost = len(table) - len(kept.table)
    return _Change(lost, seconds[0] - seconds[1], kept.found, not (same and counted))


def _read_rejects(dataset: TokenDataset, name: str, version: int) -> list[Reject]:
    url = join(dataset.root, "rejects", f"{name}.parquet")
    data = dataset.storage.read_bytes(url)
    with readable(url):
        table = pq.read_table(io.BytesIO(data)).select(reject_schema(version).names)
        return rejects_of(table)


def _rewrite(dataset: TokenDataset, data: bytes, rejects: list[Reject], drops: Drops) -> None:
    """Give the rows of a part to the writer again, which leaves out those that are dropped."""
    footer = read_footer(data)
    codec = footer["codec"]
    writer = PartWriter(
        dataset.root,
        shard_of(footer),
        dataset.storage,
        CodecInfo(**codec | {"codebook_sizes": tuple(codec["codebook_sizes"])}),
        {name: value for name, value in footer.items() if name not in _COUNTED},
        footer["schema_version"],
        drops,
        replace=True,
    )
    table = pq.read_table(
        io.BytesIO(data), page_checksum_verification=True, read_dictionary=["metadata"]
    )
    counts = [footer.get(name, 0) for name in ("bad_json", "cleaned", "passed_over")]
    with writer:
        for batch in table.to_batches():
            writer.add(batch)
        writer.close(ShardEnd(rejects, *counts))
