"""Sets of positions as intervals, for what of an epoch was given out and what is left."""

from collections.abc import Iterable, Iterator
from itertools import chain

Interval = tuple[int, int]  # the first position, and the one after the last
Intervals = list[Interval]  # sorted, apart from each other, none empty


def union(intervals: Iterable[Interval]) -> Intervals:
    """The positions of all intervals, which may overlap."""
    merged: Intervals = []
    for start, stop in sorted(each for each in intervals if each[0] < each[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def complement(intervals: Intervals, total: int) -> Intervals:
    """The positions below `total` that are in none of the intervals."""
    edges = [0, *chain.from_iterable(intervals), total]
    return [pair for pair in zip(edges[::2], edges[1::2], strict=True) if pair[0] < pair[1]]


def size(intervals: Intervals) -> int:
    """The number of positions."""
    return sum(stop - start for start, stop in intervals)


def counted(intervals: Intervals, first: int, last: int) -> Intervals:
    """The positions from the `first` to before the `last`, counted through the intervals."""
    return list(_counted(intervals, first, last))


def _counted(intervals: Intervals, first: int, last: int) -> Iterator[Interval]:
    before = 0
    for start, stop in intervals:
        begin, end = max(first - before, 0), min(last - before, stop - start)
        if begin < end:
            yield start + begin, start + end
        before += stop - start


def below(intervals: Intervals, position: int) -> Intervals:
    """The positions before this one."""
    return [(start, min(stop, position)) for start, stop in intervals if start < position]


def from_position(intervals: Intervals, position: int) -> Intervals:
    """This position and those after it."""
    return [(max(start, position), stop) for start, stop in intervals if stop > position]
