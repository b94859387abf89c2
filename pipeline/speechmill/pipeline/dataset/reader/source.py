"""The rows of one dataset at given positions of an epoch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import tee
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechmill.pipeline.dataset.documents import Codes, Utterances, utterances_of
from speechmill.pipeline.dataset.layout import TokenDataset, readable
from speechmill.pipeline.dataset.reader.intervals import Intervals
from speechmill.pipeline.dataset.reader.order import EpochOrder, Numbers, RowGroups, Window
from speechmill.pipeline.dataset.reader.read_ahead import GroupReader
from speechmill.pipeline.dataset.row_groups import RowGroup, list_row_groups
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import InputError

CHUNK = 256  # rows that are gathered, and encoded, at once


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that come one after the other in an epoch."""

    positions: list[int]
    codes: list[Codes]  # codes_FK of each row: views of what Arrow read
    table: pa.Table  # their other columns

    def utterances(self) -> Utterances:
        """The rows in the form that encoders take; copies the codes."""
        codes_NK = np.concatenate(self.codes)
        num_frames_B = np.array([len(codes_FK) for codes_FK in self.codes])
        offsets = np.append(0, np.cumsum(num_frames_B * codes_NK.shape[1])).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(codes_NK.reshape(-1)))
        return Utterances(codes_NK, num_frames_B, self.table.append_column("codes", lists))


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group in memory."""

    codes_NK: Codes
    bounds: list[int]  # the first frame of each row, then the number of frames
    table: pa.Table  # without codes

    def row(self, row: int) -> Codes:
        return self.codes_NK[self.bounds[row] : self.bounds[row + 1]]


@dataclass(frozen=True)
class Source:
    """A dataset as it was listed, and which of its rows and columns are wanted."""

    dataset: TokenDataset
    identity: dict[str, Any]
    groups: RowGroups
    columns: tuple[str, ...]  # beside the codes
    where: Where | None

    @classmethod
    def listed(
        cls,
        dataset: TokenDataset,
        columns: tuple[str, ...],
        where: Where | None,
        parts: frozenset[str] | None,
    ) -> "Source":
        """The dataset with the parts that it has now, or with those of `parts` alone."""
        identity = dataset.require_identity()
        found = list_row_groups(dataset)
        kept = [group for group in found if parts is None or group.part in parts]
        groups = RowGroups.of(kept)
        if not groups.num_rows:
            cure = "tokenize first" if parts is None else "name other parts"
            raise InputError(f"{dataset.root} has no rows to read; {cure}")
        return cls(dataset, identity, groups, columns, where)

    @property
    def num_codebooks(self) -> int:
        return len(self.identity["codebook_sizes"])

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What must be the same for a saved state to fit."""
        return {
            "codec": self.identity["codec"],
            "revision": self.identity["revision"],
            "parts": len(self.groups.parts),
            "rows": self.groups.num_rows,
            "digest": self.groups.digest,
        }

    def chunks(
        self, order: EpochOrder, positions: Intervals, read_ahead: int
    ) -> Iterator[Chunk]:
        """The rows at these positions, without those that `where` leaves out."""
        windows, ahead = tee(order.windows(positions))
        groups = (group for window, _ in ahead for group in window.groups)
        reader = GroupReader(self.dataset, self._read_columns)
        tables = reader.read_ahead(groups, read_ahead, 2 * self.num_codebooks)
        for window, mine in windows:
            loaded = [self._loaded(next(tables), group) for group in window.groups]
            yield from self._chunks_of_window(window, mine, loaded)

    @property
    def _read_columns(self) -> tuple[str, ...]:
        asked = (*self.columns, *(self.where.columns if self.where else ()))
        return tuple(dict.fromkeys(("codes", "num_frames", *asked)))

    def _loaded(self, table: pa.Table, group: RowGroup) -> tuple[_Group, npt.NDArray[np.bool_]]:
        """A row group, and which of its rows are wanted."""
        with readable(self.dataset.part_url(group.part)):
            utterances = utterances_of(table, self.num_codebooks)
            if not np.array_equal(utterances.num_frames_B, table["num_frames"].to_numpy()):
                raise ValueError("the codes of a row are not those of num_frames frames")
            bounds = np.append(0, np.cumsum(utterances.num_frames_B)).tolist()
            wanted = self.where.mask(table) if self.where else np.ones(len(table), dtype=np.bool_)
            # A table without any column would not know its number of rows.
            kept = [name for name in ("num_frames", *self.columns) if name in table.column_names]
            return _Group(utterances.codes_NK, bounds, table.select(kept)), wanted

    def _chunks_of_window(
        self, window: Window, positions: Intervals, loaded: Sequence[tuple[_Group, Any]]
    ) -> Iterator[Chunk]:
        groups = [group for group, _ in loaded]
        table = pa.concat_tables([group.table for group in groups]).combine_chunks()
        wanted = np.concatenate([mask for _, mask in loaded])
        sizes = np.array([len(mask) for _, mask in loaded])
        first = np.cumsum(sizes) - sizes
        for position_B, row_B in _batches(window, positions, wanted):
            group_B = np.searchsorted(first, row_B, side="right") - 1
            places = zip(group_B.tolist(), (row_B - first[group_B]).tolist(), strict=True)
            codes = [groups[group].row(row) for group, row in places]
            yield Chunk(position_B.tolist(), codes, table.take(pa.array(row_B)))


def _batches(
    window: Window, positions: Intervals, wanted: npt.NDArray[np.bool_]
) -> Iterator[tuple[Numbers, Numbers]]:
    """The positions, and the rows of the window there, some hundred at once."""
    order_W = window.order()
    for start, stop in positions:
        for first in range(start, stop, CHUNK):
            position_B = np.arange(first, min(first + CHUNK, stop))
            row_B = order_W[position_B - window.start]
            kept = wanted[row_B]
            if kept.any():
                yield position_B[kept], row_B[kept]
