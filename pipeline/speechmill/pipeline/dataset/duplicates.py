"""Rows that token datasets hold more than once: of equal files, or with equal codes.

The first pass keeps a hash of 64 bits of each recording or row, to find those that come twice; the
second one reads the facts of these. So memory grows by 24 MB for a million that are compared, and
by less than 1 kB for each one that is in a group: 300 million fit into 8 GB and their duplicates.
Among as many, one pair or none has equal hashes by chance.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from speechmill.pipeline.dataset.key_file import SCHEMA
from speechmill.pipeline.dataset.layout import TokenDataset, readable
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import DatasetConflict, InputError, check_choice
from speechmill.pipeline.group_rows import group_rows

AUDIO, CODES = "audio", "codes"
_MEMBERS = SCHEMA.append(pa.field("duration", pa.float64())).append(pa.field("group", pa.uint64()))
_PLACE = ["dataset", "shard", "index", "start", "channel"]
_COLUMNS = [name for name in _MEMBERS.names if name not in ("dataset", "group")]
_HASH = _MEMBERS.field("group").type
_THREADS = 8  # each holds a few row groups in memory

Hashes = npt.NDArray[np.uint64]
Part = tuple[TokenDataset, str]


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Groups of equal recordings or rows, in the order of the datasets, parts and rows.

    `table` has the columns of a key file, `duration` in s, and `group`, the hash that the members
    of a group share. The first member of each group is the one to keep.
    """

    compared: int  # recordings, or rows
    table: pa.Table
    first_N: npt.NDArray[np.bool_]  # whether each member is the first of its group

    @property
    def groups(self) -> int:
        return int(self.first_N.sum())

    @property
    def copies(self) -> pa.Table:
        """All members but the first of each group."""
        return self.table.filter(pa.array(~self.first_N))


def find_duplicates(
    datasets: Sequence[TokenDataset], by: str = AUDIO, where: Where | None = None
) -> Duplicates:
    """Compare recordings by the hash of their file, or rows by their codes.

    Only rows that `where` selects count. By codes, each segment counts for itself; by audio, the
    segments of a recording are one. Raises `DatasetConflict` if codes are of several revisions, and
    `InputError` for a dataset that is given twice.
    """
    check_choice("by", by, (AUDIO, CODES))
    _check(datasets, by)
    parts = [(dataset, name) for dataset in datasets for name in sorted(dataset.parts())]
    compare = _Comparison(by, where)
    with ThreadPoolExecutor(_THREADS) as threads:
        hashes = list(threads.map(compare.hashes, parts))
        twice_N = _twice(hashes)
        own = zip(parts, hashes, strict=True)
        held = [part for part, hashes_N in own if _among(hashes_N, twice_N).any()]
        tables = list(threads.map(partial(compare.members, twice_N=twice_N), held))
    table = _grouped(tables)
    group_N = table["group"].to_numpy()
    first_N = np.zeros(len(table), dtype=np.bool_)
    first_N[np.unique(group_N, return_index=True)[1]] = True
    return Duplicates(sum(map(len, hashes)), table, first_N)


def _check(datasets: Sequence[TokenDataset], by: str) -> None:
    revisions: dict[str, str] = {}  # the first dataset of each
    for dataset in datasets:
        revisions.setdefault(str(dataset.require_identity().get("revision")), dataset.root)
    if by == CODES and len(revisions) > 1:
        named = ", ".join(f"{root} has {revision}" for revision, root in revisions.items())
        raise DatasetConflict(f"codes of several revisions differ: {named}; compare by audio")
    roots = [dataset.root for dataset in datasets]
    if len(set(map(os.path.realpath, roots))) < len(roots):  # through links too
        raise InputError(f"a dataset is given twice: {', '.join(roots)}")


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Reads what is compared: recordings by the hash of their file, or rows by their codes."""

    by: str
    where: Where | None

    def hashes(self, part: Part) -> Hashes:
        """The hash of each recording or row of a part."""
        columns = ["audio_xxh3", "shard", "index"] if self.by == AUDIO else []
        tables = self._read(part, columns)
        return np.concatenate([np.empty(0, np.uint64), *(t["group"].to_numpy() for t in tables)])

    def members(self, part: Part, twice_N: Hashes) -> pa.Table:
        """The recordings or rows of a part that have one of these hashes; they are sorted."""
        dataset, name = part
        tables = (
            table.filter(pa.array(_among(table["group"].to_numpy(), twice_N)))
            for table in self._read(part, _COLUMNS)
        )
        with readable(dataset.part_url(name)):
            members = pa.concat_tables([_MEMBERS.empty_table(), *map(_cast, tables)])
        roots = pa.array([dataset.root] * len(members), pa.string())
        return members.set_column(members.column_names.index("dataset"), "dataset", roots)

    def _read(self, part: Part, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of each row group that are wanted, with the column `group`."""
        dataset, name = part
        codes = ["codes", "num_frames"] if self.by == CODES else []
        wanted = [*columns, *codes, *(self.where.columns if self.where else ())]
        url = dataset.part_url(name)
        with dataset.storage.open(url) as stream, readable(url):
            file = pq.ParquetFile(stream)
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, list(dict.fromkeys(wanted)))
                yield self._compared(self.where.select(table) if self.where else table)

    def _compared(self, table: pa.Table) -> pa.Table:
        if self.by == AUDIO:
            table = _recordings(table)
            return table.append_column("group", table["audio_xxh3"].cast(_HASH))
        hashes_N = _hashes_of_codes(table)
        return table.drop_columns("codes").append_column("group", pa.array(hashes_N))


def _recordings(table: pa.Table) -> pa.Table:
    """One row for each recording, without the times of its rows."""
    wanted = [("key", "first"), ("duration", "sum")]
    wanted = [one for one in wanted if one[0] in table.column_names]
    return group_rows(table, ["shard", "index", "audio_xxh3"], wanted)


def _hashes_of_codes(table: pa.Table) -> Hashes:
    """XXH3 of the codes of each row, seeded with the number of its frames."""
    codes = table["codes"].combine_chunks()
    data = memoryview(codes.values.to_numpy()).cast("B")
    width = codes.type.value_type.bit_width // 8
    offsets = (codes.offsets.to_numpy().astype(np.int64) * width).tolist()
    frames = table["num_frames"].to_pylist()
    rows = zip(offsets[:-1], offsets[1:], frames, strict=True)
    hashes = [xxhash.xxh3_64_intdigest(data[start:stop], count) for start, stop, count in rows]
    return np.array(hashes, dtype=np.uint64)


def _cast(table: pa.Table) -> pa.Table:
    """The columns of members; those that a table lacks are null."""
    count = len(table)
    columns = [
        table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(count, f.type)
        for f in _MEMBERS
    ]
    return pa.table(columns, schema=_MEMBERS)


def _twice(hashes: Sequence[Hashes]) -> Hashes:
    """The hashes that come more than once, sorted, each once."""
    together_N = np.concatenate([np.empty(0, np.uint64), *hashes])
    together_N.sort()
    return np.unique(together_N[1:][together_N[1:] == together_N[:-1]])


def _among(hashes_N: Hashes, sorted_M: Hashes) -> npt.NDArray[np.bool_]:
    if not len(sorted_M):
        return np.zeros(len(hashes_N), dtype=np.bool_)
    places_N = np.minimum(np.searchsorted(sorted_M, hashes_N), len(sorted_M) - 1)
    return np.asarray(sorted_M[places_N] == hashes_N)


def _grouped(tables: Sequence[pa.Table]) -> pa.Table:
    """The members of groups of two or more, in their order.

    A recording whose rows are in two row groups or files is not a duplicate of itself.
    """
    together = pa.concat_tables([_MEMBERS.empty_table(), *tables])
    wanted = [("key", "first"), ("audio_xxh3", "first"), ("duration", "sum")]
    table = _cast(group_rows(together, [*_PLACE, "group"], wanted))
    _, inverse_N, count_M = np.unique(
        table["group"].to_numpy(), return_inverse=True, return_counts=True
    )
    return table.filter(pa.array(count_M[inverse_N] > 1)) if len(table) else table
