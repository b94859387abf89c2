"""The rows of one dataset that one consumer gives out, epoch after epoch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from speechmill.pipeline.dataset.documents import Utterances
from speechmill.pipeline.dataset.reader.intervals import from_position
from speechmill.pipeline.dataset.reader.order import EpochOrder
from speechmill.pipeline.dataset.reader.rows import Rows
from speechmill.pipeline.dataset.reader.source import Source
from speechmill.pipeline.dataset.reader.split import Split, Tail
from speechmill.pipeline.dataset.reader.state import Base, Place
from speechmill.pipeline.errors import InputError


@dataclass(frozen=True, slots=True)
class Reading:
    """How all datasets of a reader are read."""

    prepare: Callable[[Utterances], Rows]
    counts_ids: bool  # rows have a length: the number of ids
    seed: int
    window_rows: int | None
    read_ahead: int
    tail: Tail


@dataclass(slots=True)
class Drawn:
    """A row that was taken from its dataset, but not given out yet."""

    place: Place
    position: int
    content: Any
    size: int  # ids, or 1 for a row as it is stored
    offset: int  # ids that were given out before

    def finish(self) -> None:
        """Count it as given out."""
        place = self.place
        place.position, place.offset, place.given = self.position + 1, 0, place.given + self.size

    def finish_up_to(self, offset: int) -> None:
        """Count its first ids as given out."""
        self.place.position, self.place.offset = self.position, offset


class Feed:
    """Rows of one dataset, from a place on; the place moves when they are given out."""

    def __init__(self, source: Source, base: Base, split: Split, place: Place, reading: Reading):
        self.place = place
        self._source, self._base, self._split, self._reading = source, base, split, reading
        self._rows = self._epoch()
        self._barren = 0  # epochs in a row without any row

    def draw(self) -> Drawn | None:
        """The next row; None at the end of an epoch, after which the next one begins."""
        if self._barren > 1:  # one may have been continued at its end
            raise InputError(
                f"{self._source.dataset.root}: worker {self._split.index} of {self._split.count} "
                "has no rows of it, so it cannot begin again; use fewer workers, or select more "
                "rows"
            )
        drawn = next(self._rows, None)
        if drawn:
            self._barren = 0
            return drawn
        self._barren += 1
        self.place.epoch, self.place.position, self.place.offset = self.place.epoch + 1, 0, 0
        self._rows = self._epoch()
        return None

    def _epoch(self) -> Iterator[Drawn]:
        """The rows of this epoch that are left to this consumer."""
        place, reading, groups = self.place, self._reading, self._source.groups
        order = EpochOrder(groups, reading.seed, place.epoch, reading.window_rows)
        share = self._base.share(place.epoch, groups.num_rows, self._split, reading.tail)
        left = from_position(share, place.position)
        offsets = self._base.of(place.epoch).offsets
        if place.offset:
            offsets = offsets | {place.position: place.offset}
        rows = self._source.rows(order, left, reading.prepare, reading.read_ahead)
        for position, content in rows:
            size = len(content) if reading.counts_ids else 1
            if size:
                yield Drawn(place, position, content, size, offsets.get(position, 0))
