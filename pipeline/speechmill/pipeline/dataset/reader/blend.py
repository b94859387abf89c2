"""Rows of several datasets, in proportion to their weights."""

from collections.abc import Iterator, Sequence
from enum import StrEnum

from speechmill.pipeline.dataset.reader.feed import Drawn, Feed
from speechmill.pipeline.dataset.reader.order import random_numbers


class Until(StrEnum):
    """When an epoch of several datasets ends; those that end before begin again."""

    FIRST = "first"  # at the end of the first one
    ALL = "all"  # when each was read to its end
    NEVER = "never"


def phases(count: int, unit: int, key: tuple[int, ...]) -> list[float]:
    """Where each dataset begins in its turn, so that consumers do not move in step."""
    return [unit * int(number) / 2**64 for number in random_numbers(key, count)]


class Blend:
    """Draws from the dataset that is furthest behind its weight.

    This is how Megatron-Core blends datasets (`build_blending_indices`). What was given out differs
    from the weights by about one row at every moment.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        weights: Sequence[float],
        phases: Sequence[float],
        until: Until,
        epoch: int,
    ):
        self._feeds = list(zip(feeds, weights, phases, strict=True))
        self._until = until
        self._epoch = epoch

    def __iter__(self) -> Iterator[Drawn]:
        """Each row must be finished before the next is taken."""
        while not self._is_over():
            feed = min(self._feeds, key=_turn)[0] if len(self._feeds) > 1 else self._feeds[0][0]
            while drawn := feed.draw():
                yield drawn
                if len(self._feeds) > 1:
                    break

    def _is_over(self) -> bool:
        if self._until == Until.NEVER:
            return False
        ended = [feed.place.epoch > self._epoch for feed, _, _ in self._feeds]
        return any(ended) if self._until == Until.FIRST else all(ended)


def _turn(entry: tuple[Feed, float, float]) -> float:
    feed, weight, phase = entry
    return (feed.place.given + phase) / weight
