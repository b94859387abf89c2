"""The samples and segments that `speechmill drop` takes out, of parts that exist and of new ones.

Of a dropped sample, a dataset keeps the position in its tar and the SHA-256 of its key: enough to
know it again, and neither its name nor what was said.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechmill.pipeline.errors import Dropped, RejectStage
from speechmill.pipeline.group_rows import group_rows
from speechmill.pipeline.shards.listing import Shard, stem_of_part
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.tokenize.schema import channels_of

# An entry selects the rows that have all values that it gives. One with a start or a channel
# selects single rows, the others whole samples.
SCHEMA = pa.schema(
    [
        pa.field("key_sha256", pa.string()),  # hexadecimal
        pa.field("audio_xxh3", pa.uint64()),
        pa.field("shard", pa.string()),  # URL of the tar
        pa.field("index", pa.int32()),
        pa.field("start", pa.float64()),
        pa.field("channel", pa.uint8()),
    ]
)
_FIELDS = [name for name in SCHEMA.names if name != "shard"]
COLUMNS = ("key", "audio_xxh3", "index", "start", "end", "channel")  # of the rows of a part
_OF_ROWS = {"start", "channel"}
_HIDDEN = "sha256:"
_MESSAGE = "taken out by `speechmill drop`; the records are in dropped/"

Lookup = dict[tuple[str, ...], dict[tuple[Any, ...], int]]


def key_sha256(key: str) -> str:
    """The SHA-256 of a key in UTF-8, hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_key(found: str, key: str) -> bool:
    """Whether a key that is found in a dataset is that of a sample of a tar, plain or hidden."""
    return found == key or found == _HIDDEN + key_sha256(key)


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays of a part, and which entries were found in it."""

    table: pa.Table
    rejects: list[Reject]
    found: set[int]  # positions among the entries


@dataclass(frozen=True)
class Drops:
    """Entries by which rows and rejects are taken out of parts; `entries` has the schema above."""

    entries: pa.Table

    @classmethod
    def of(cls, tables: Sequence[pa.Table]) -> "Drops":
        """The distinct entries of all tables, in the order in which they first come."""
        together = pa.concat_tables([SCHEMA.empty_table(), *tables])
        return cls(group_rows(together, SCHEMA.names).cast(SCHEMA).combine_chunks())

    def __len__(self) -> int:
        return len(self.entries)

    def may_concern(self, part: str) -> bool:
        """Whether an entry may be in the part of this name: that of its tar has the same stem."""
        return None in self._by_shard or stem_of_part(part) in self._stems

    def applied(self, table: pa.Table, rejects: Sequence[Reject], shard: str) -> Kept:
        """What stays of the rows and rejects of a part.

        `table` has the columns above. A dropped sample becomes one reject, whatever it was; so does
        a dropped row of a sample whose other rows stay.
        """
        lookups = [self._general, self._lookup(shard)]
        rows = [match for lookup in lookups for match in _matches(lookup, _of_rows(table))]
        samples = [match for lookup in lookups for match in _matches(lookup, _of_rejects(rejects))]
        found = {number for _, number, _ in (*rows, *samples)}
        if not found:
            return Kept(table, list(rejects), found)
        indices = table["index"].to_pylist()
        whole = {indices[row] for row, _, single in rows if not single}
        whole |= {rejects[place].index for place, _, single in samples if not single}
        gone = {row for row, index in enumerate(indices) if index in whole}
        single = {row for row, _, single in rows if single} - gone
        alone = table.take(pa.array(sorted(single), pa.int64()))
        dropped = [*_whole(table, rejects, whole), *_single(alone)]
        others = [reject for reject in rejects if reject.index not in whole]
        stays = np.isin(np.arange(len(table)), [*gone, *single], invert=True)
        return Kept(table.filter(pa.array(stays)), _in_order(others + dropped), found)

    @cached_property
    def _by_shard(self) -> dict[str | None, npt.NDArray[np.int64]]:
        """Positions of the entries of each tar; those of None concern every tar."""
        encoded = self.entries["shard"].combine_chunks().dictionary_encode(null_encoding="encode")
        places_N = encoded.indices.to_numpy()
        order_N = np.argsort(places_N, kind="stable")
        ends = np.cumsum(np.bincount(places_N, minlength=len(encoded.dictionary)))[:-1]
        return dict(zip(encoded.dictionary.to_pylist(), np.split(order_N, ends), strict=False))

    @cached_property
    def _stems(self) -> set[str]:
        return {Shard(url, 0, "").stem for url in self._by_shard if url is not None}

    @cached_property
    def _general(self) -> "Lookup":
        return self._lookup(None)

    def _lookup(self, shard: str | None) -> "Lookup":
        """The entries of a tar by the names of their fields, then by the values."""
        numbers = self._by_shard.get(shard, np.empty(0, np.int64))
        lookup: Lookup = {}
        entries = self.entries.select(_FIELDS).take(pa.array(numbers)).to_pylist()
        for number, entry in zip(numbers.tolist(), entries, strict=True):
            given = {name: value for name, value in entry.items() if value is not None}
            lookup.setdefault(tuple(given), {}).setdefault(tuple(given.values()), number)
        return lookup


def _matches(
    lookup: Lookup, column: Callable[[str], Sequence[Any] | None]
) -> Iterator[tuple[int, int, bool]]:
    """Position of each row that an entry selects, that of the entry, and if it is of one row."""
    for names, entries in lookup.items():
        columns = [values for name in names if (values := column(name)) is not None]
        if len(columns) < len(names):
            continue
        for row, found in enumerate(zip(*columns, strict=True)):
            if found in entries:
                yield row, entries[found], not _OF_ROWS.isdisjoint(names)


def _of_rows(table: pa.Table) -> Callable[[str], Sequence[Any]]:
    """The values of a field in all rows."""

    @cache
    def column(name: str) -> Sequence[Any]:
        if name == "key_sha256":
            return [key_sha256(key) for key in table["key"].to_pylist()]
        return channels_of(table) if name == "channel" else list(table[name].to_pylist())

    return column


def _of_rejects(rejects: Sequence[Reject]) -> Callable[[str], Sequence[Any] | None]:
    """The values of a field in all rejects; None for a field that they do not have."""

    @cache
    def column(name: str) -> Sequence[Any] | None:
        if name == "key_sha256":
            return [_hidden(reject).removeprefix(_HIDDEN) for reject in rejects]
        return [reject.index for reject in rejects] if name == "index" else None

    return column


def _hide(key: str) -> str:
    return _HIDDEN + key_sha256(key)


def _hidden(reject: Reject) -> str:
    """The key of a reject, hidden, as it is already if the sample was dropped before."""
    return reject.key if reject.error == Dropped.__name__ else _hide(reject.key)


def _whole(table: pa.Table, rejects: Sequence[Reject], indices: set[int]) -> Iterator[Reject]:
    """A reject for each of these samples."""
    keys = {reject.index: _hidden(reject) for reject in rejects if reject.index in indices}
    for index, key in zip(table["index"].to_pylist(), table["key"].to_pylist(), strict=True):
        if index in indices and index not in keys:
            keys[index] = _hide(key)
    for index, key in keys.items():
        yield _reject(key, index)


def _single(table: pa.Table) -> Iterator[Reject]:
    """A reject for each of these rows."""
    columns = [table[name].to_pylist() for name in ("key", "index", "start", "end")]
    for key, index, start, end, channel in zip(*columns, channels_of(table), strict=True):
        yield replace(_reject(_hide(key), index), start=start, end=end, channel=channel)


def _reject(key: str, index: int) -> Reject:
    """The reject of a dropped sample; member and size would tell something about it."""
    return Reject(key, index, "", RejectStage.DROP, Dropped.__name__, _MESSAGE, 0)


def _in_order(rejects: Sequence[Reject]) -> list[Reject]:
    """The dropped ones last and sorted, so that their order tells nothing of when they were."""
    others = [reject for reject in rejects if reject.error != Dropped.__name__]
    dropped = [reject for reject in rejects if reject.error == Dropped.__name__]
    return others + sorted(dropped, key=lambda r: (r.index, r.start or 0.0, r.channel or 0))
