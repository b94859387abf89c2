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

_BARREN_EPOCHS = 8  # `where` may select none of the rows of a consumer in some epochs, by chance


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
    size: int  # ids that come of it, or 1 for a row as it is stored
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
        self._barren = 0  # whole epochs in a row of which nothing was given out
        self._begin_epoch()

    def draw(self) -> Drawn | None:
        """The next row; None at the end of an epoch, after which the next one begins."""
        drawn = next(self._rows, None)
        if drawn:
            return drawn
        self._count_barren()
        self.place.epoch, self.place.position, self.place.offset = self.place.epoch + 1, 0, 0
        self._begin_epoch()
        return None

    def _begin_epoch(self) -> None:
        place = self.place
        self._is_whole = place.position == 0 and not self._base.of(place.epoch).rows
        self._given_before = place.given
        self._rows = self._epoch()

    def _count_barren(self) -> None:
        """Raise `InputError` if one epoch after the other gives nothing."""
        if self.place.given > self._given_before:
            self._barren = 0
        elif self._is_whole:
            self._barren += 1
        if self._barren == _BARREN_EPOCHS:
            raise InputError(
                f"{self._source.dataset.root}: worker {self._split.index} of {self._split.count} "
                f"has no rows of it in {_BARREN_EPOCHS} epochs; use fewer workers, select more "
                "rows, or keep documents that are longer than a sequence"
            )

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
