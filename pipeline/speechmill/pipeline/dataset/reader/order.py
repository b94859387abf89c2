"""The order of an epoch: a function of the row groups, the seed and the number of the epoch alone.

The row groups are shuffled, and cut into windows of about as many rows as the shuffle holds in
memory. In each window the rows are shuffled. So every row has a position, whoever reads it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from speechmill.pipeline.dataset.reader.intervals import Intervals
from speechmill.pipeline.dataset.row_groups import RowGroup

Numbers = npt.NDArray[np.int64]


def random_numbers(key: Sequence[int], count: int) -> npt.NDArray[np.uint64]:
    """64-bit numbers that are the same in every version of numpy, unlike those of a Generator."""
    return np.random.PCG64(np.random.SeedSequence(key)).random_raw(count)


def permutation(key: Sequence[int], count: int) -> Numbers:
    """The numbers below `count` in an order that only depends on the key."""
    return np.argsort(random_numbers(key, count), kind="stable")


@dataclass(frozen=True)
class RowGroups:
    """The row groups of a dataset as arrays: there may be millions, in every worker."""

    parts: tuple[str, ...]
    part_G: Numbers  # index into `parts`
    number_G: Numbers
    rows_G: Numbers
    frames_G: Numbers

    @classmethod
    def of(cls, groups: Iterable[RowGroup]) -> "RowGroups":
        """Of a sorted list; groups without rows are left out.

        Raises `ValueError` for a negative number of rows.
        """
        kept = [group for group in groups if group.rows]
        if wrong := [group for group in kept if group.rows < 0]:
            raise ValueError(
                f"row group {wrong[0].number} of {wrong[0].part} has {wrong[0].rows} rows"
            )
        places = {part: i for i, part in enumerate(dict.fromkeys(group.part for group in kept))}
        facts = [(places[g.part], g.number, g.rows, g.frames) for g in kept]
        columns = np.array(facts, dtype=np.int64).reshape(-1, 4).T
        return cls(tuple(places), *np.ascontiguousarray(columns))

    def __len__(self) -> int:
        return len(self.rows_G)

    def __getitem__(self, index: int) -> RowGroup:
        part = self.parts[self.part_G[index]]
        facts = (self.number_G[index], self.rows_G[index], self.frames_G[index])
        return RowGroup(part, *map(int, facts))

    @cached_property
    def num_rows(self) -> int:
        return int(self.rows_G.sum())

    @cached_property
    def digest(self) -> str:
        """Differs if there are other parts, or if one has other rows."""
        digest = hashlib.sha256("\n".join(self.parts).encode())
        for array in (self.part_G, self.number_G, self.rows_G, self.frames_G):
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Window:
    """Row groups whose rows are shuffled together."""

    start: int  # position of its first row in the epoch
    rows: int
    groups: list[RowGroup]
    key: tuple[int, int] | None  # seed and epoch; None to keep the order

    def order(self) -> Numbers:
        """The row, counted through the groups, at each position from `start` on."""
        if self.key is None:
            return np.arange(self.rows)
        return permutation((*self.key, self.start), self.rows)


class EpochOrder:
    """The windows of one epoch; `window_rows` is None to keep the order of the dataset."""

    def __init__(self, groups: RowGroups, seed: int, epoch: int, window_rows: int | None):
        self._groups = groups
        self._key = None if window_rows is None else (seed, epoch)
        count = len(groups)
        self._order_G = permutation(self._key, count) if self._key else np.arange(count)
        rows_G = groups.rows_G[self._order_G]
        starts_G = np.cumsum(rows_G) - rows_G
        # A window holds the groups that start in the same stretch of `window_rows` positions.
        _, firsts = np.unique(starts_G // (window_rows or 1), return_index=True)
        self._edges = np.append(firsts, count)
        self._starts = starts_G[firsts]

    def windows(self, positions: Intervals) -> Iterator[tuple[Window, Intervals]]:
        """The windows that hold these positions, each with those of them that it holds."""
        stops = np.append(self._starts[1:], self._groups.num_rows)
        pending = list(reversed(positions))
        while pending:
            at = int(np.searchsorted(self._starts, pending[-1][0], side="right")) - 1
            stop, mine = int(stops[at]), []
            while pending and pending[-1][0] < stop:
                first, last = pending.pop()
                mine.append((first, min(last, stop)))
                if last > stop:
                    pending.append((stop, last))
            yield self._window(at, stop), mine

    def _window(self, at: int, stop: int) -> Window:
        start = int(self._starts[at])
        indices = self._order_G[self._edges[at] : self._edges[at + 1]].tolist()
        return Window(start, stop - start, [self._groups[i] for i in indices], self._key)
