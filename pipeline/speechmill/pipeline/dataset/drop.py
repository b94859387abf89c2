"""Take rows out of a token dataset, and keep them out.

What is dropped is recorded first, in `dropped/`, under a name that is the digest of the record.
Then every part is written again without these rows, as the writer would have written it, and the
call marks its own record as applied. It does not mark those of calls at the same time, which may
still write a part with rows that it has just taken out. `tokenize` gives the records to its
workers, so that a shard that is read again gives the same part. After a kill at any point, the same
command, or one that names nothing, does the rest.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.pipeline.audio.recordings import EACH
from speechmill.pipeline.dataset.compact.drop_file import change_file
from speechmill.pipeline.dataset.compact.files import is_finished, renew_index
from speechmill.pipeline.dataset.drop_part import change_part
from speechmill.pipeline.dataset.layout import COMPACTED, TokenDataset, readable, shard_of
from speechmill.pipeline.dataset.section_rows import read_file
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import InputError, StorageNotFound
from speechmill.pipeline.parquet import read_parquet
from speechmill.pipeline.storage import join
from speechmill.pipeline.tokenize.drops import COLUMNS, SCHEMA, Drops, key_sha256

FOLDER = "dropped"  # of the records
_RECORD = "parquet"  # the suffix of a record
_APPLIED = "applied"  # that of an empty file beside a record whose rows are in no part
_THREADS = 8  # each holds one part in memory
_FILES = 2  # of a compacted dataset at the same time: each takes memory for two of its size


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
        return read_parquet(data).select(SCHEMA.names).cast(SCHEMA)


def write_record(dataset: TokenDataset, drops: Drops) -> str:
    """Record entries and return the name of the record; equal entries have one record."""
    sink = io.BytesIO()
    pq.write_table(drops.entries, sink, compression="zstd", write_page_checksum=True)
    name = hashlib.sha256(sink.getvalue()).hexdigest()[:16]
    dataset.storage.put_new(_record_url(dataset, name), sink.getvalue())
    return name


def require_applied(dataset: TokenDataset) -> None:
    """Raise `InputError` if rows that a record names may still be there.

    A `drop` was stopped or still runs, or `tokenize` wrote parts without knowing the record.
    """
    found = _files(dataset)
    if found[_RECORD].keys() - found[_APPLIED].keys():
        raise InputError(
            f"{dataset.root} may still have rows that a `drop` was to take out; run `speechmill "
            f"drop {dataset.root}` first"
        )


def require_another_drop(dataset: TokenDataset) -> None:
    """Remove the marks of all records: a run has written parts that may hold dropped rows."""
    for url in _files(dataset)[_APPLIED].values():
        with suppress(StorageNotFound):  # another run has removed it
            dataset.storage.delete(url)


def _files(dataset: TokenDataset) -> defaultdict[str, dict[str, str]]:
    """The URLs of records and of marks: by the suffix, then by the name of the record."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for info in dataset.storage.list_files(join(dataset.root, FOLDER)):
        name, _, suffix = info.url.rpartition("/")[2].rpartition(".")
        if not name.startswith("."):
            found[suffix][name] = info.url
    return found


def _mark_applied(dataset: TokenDataset, records: Iterable[str]) -> None:
    for name in sorted(set(records) - _files(dataset)[_APPLIED].keys()):
        dataset.storage.put_new(join(dataset.root, FOLDER, f"{name}.{_APPLIED}"), b"")


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
        tables = [SCHEMA.empty_table()]
        for section, table in read_file(dataset, name, list(wanted)):
            with readable(dataset.part_url(name)):
                left = drops.applied(table, [], shard_of(section.footer).url).table
                rows = where.select(left)
                keys = [key_sha256(key) for key in rows["key"].to_pylist()]
                columns = {
                    field: rows[field] for field in SCHEMA.names if field in rows.schema.names
                }
                columns["key_sha256"] = pa.array(keys, pa.string())
                tables.append(_entries(columns, identity))
        return pa.concat_tables(tables)

    return Drops.of(dataset.map_names(selected, sorted(dataset.parts()), _THREADS)).entries


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
    no rows come back, whichever writes a part last. A call marks its own record; one that names
    nothing, all that it found. With `dry_run`, nothing is written. Raises `InputError` for damaged
    files, and for a dataset that `compact` has not finished.
    """
    if COMPACTED in dataset.require_identity() and not is_finished(dataset):
        raise InputError(f"{dataset.root} is not compacted yet; run `speechmill compact` again")
    mine = Drops.of([wanted])
    own = [write_record(dataset, mine)] if len(mine) and not dry_run else []
    records = read_records(dataset)
    to_mark = own or list(records)
    report = DropReport(len(mine), len(records))
    while True:
        _apply(dataset, Drops.of([mine.entries, *records.values()]), report, dry_run)
        if dry_run:
            return report
        if records.keys() == dataset.parts(FOLDER):
            _mark_applied(dataset, to_mark)
            return report
        records = read_records(dataset)


def _apply(dataset: TokenDataset, drops: Drops, report: DropReport, dry_run: bool) -> None:
    identity, rejected = dataset.require_identity(), dataset.parts("rejects")
    names = sorted(dataset.parts())
    report.parts = len(names)
    if COMPACTED in identity:
        in_file = partial(change_file, dataset, identity, drops=drops, dry_run=dry_run)
        changes = dataset.map_names(lambda name: in_file(name, name in rejected), names, _FILES)
        if not dry_run:
            renew_index(dataset)
    else:
        names = [name for name in names if drops.may_concern(name)]
        in_part = partial(change_part, dataset, drops=drops, dry_run=dry_run)
        changes = dataset.map_names(lambda name: in_part(name, name in rejected), names, _THREADS)
    for one in changes:
        report.parts_changed += one.changed
        report.rows += one.rows
        report.audio_seconds += one.audio_seconds
        report.found |= {number for number in one.found if number < report.entries}
