"""Documents, packed into sequences of one length."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from speechmill.pipeline.dataset.reader.feed import Drawn
from speechmill.pipeline.dataset.reader.rows import Item

PADDING = -1  # as the document of an id


class Long(StrEnum):
    """What becomes of a document that does not fit into the rest of a sequence."""

    SPLIT = "split"  # it goes on in the next sequence; only the last sequence is padded
    CUT = "cut"  # it begins the next sequence; one longer than a sequence loses its end
    DROP = "drop"  # it begins the next sequence; one longer than a sequence is left out


_counted = lru_cache(1)(np.arange)


@dataclass(frozen=True, slots=True)
class Packer:
    """Fills sequences of `length` ids with documents, in their order."""

    length: int
    long: Long
    pad_id: int

    def sequences(self, documents: Iterator[Drawn]) -> Iterator[Item]:
        """Sequences; before each is given out, the places of its documents are moved."""
        pieces: list[npt.NDArray[np.int32]] = []
        room = self.length
        for drawn in documents:
            if self.long != Long.SPLIT and not self._fits(drawn):
                continue
            whole = len(drawn.content)
            if self.long != Long.SPLIT and whole - drawn.offset > room:
                yield self._sequence(pieces, room)
                pieces, room = [], self.length
            start = drawn.offset
            while start < whole:
                stop = min(whole, start + room)
                pieces.append(drawn.content[start:stop])
                room -= stop - start
                start = stop
                if stop < whole:
                    drawn.finish_up_to(stop)
                else:
                    drawn.finish()
                if not room:
                    yield self._sequence(pieces, 0)
                    pieces, room = [], self.length
        if pieces:
            yield self._sequence(pieces, room)

    def _fits(self, drawn: Drawn) -> bool:
        """Whether a document stays; one that is too long is cut here."""
        if len(drawn.content) - drawn.offset > self.length:
            if self.long == Long.DROP:
                drawn.size = 0
                drawn.finish()
                return False
            drawn.content = drawn.content[: drawn.offset + self.length]
            drawn.size = self.length
        return True

    def _sequence(self, pieces: list[npt.NDArray[np.int32]], room: int) -> Item:
        shape = (self.length, *pieces[0].shape[1:])
        ids, positions = np.empty(shape, np.int64), np.empty(self.length, np.int64)
        documents, counted = np.empty(self.length, np.int64), _counted(self.length)
        bounds = [0]
        for number, piece in enumerate(pieces):
            start, stop = bounds[-1], bounds[-1] + len(piece)
            ids[start:stop], documents[start:stop] = piece, number
            positions[start:stop] = counted[: len(piece)]
            bounds.append(stop)
        if room:
            ids[-room:], documents[-room:] = self.pad_id, PADDING
            positions[-room:] = counted[:room]
            bounds.append(self.length)
        return {
            "input_ids": torch.from_numpy(ids),
            "position_ids": torch.from_numpy(positions),
            "document_ids": torch.from_numpy(documents),
            "cu_seqlens": torch.tensor(bounds, dtype=torch.int32),
            "max_seqlen": max(stop - start for start, stop in pairwise(bounds)),
        }
