"""What all patterns of codes have in common: `patterns.py` has the patterns.

The core of each pattern is `_place`, which says in which cell the code of a frame and a codebook
stands. `encode` writes there, and `decode` reads there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from speechmill.pipeline.dataset.documents import Codes, Documents
from speechmill.pipeline.errors import InputError

Numbers = npt.NDArray[np.int64]

_STRETCH = 128  # frames that are added at once


def first_ids(sizes: Sequence[int], *, pads: bool) -> list[int]:
    """The id of code 0 of each codebook, then the number of all ids."""
    return list(accumulate((size + pads for size in sizes), initial=0))


def is_int(value: Any, least: int, most: int = 2**31) -> bool:
    """Whether a setting is a whole number in a range; JSON and YAML give others."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def require_sizes(sizes: Sequence[int]) -> None:
    """Raise `InputError` unless these can be the sizes of codebooks."""
    if not 1 <= len(sizes) <= 255 or not all(is_int(size, 1) for size in sizes):
        raise InputError(f"codebook sizes are {list(sizes)}; give 1 to 255 numbers from 1 up")
    if first_ids(sizes, pads=True)[-1] >= 2**31:
        raise InputError(f"codebooks of {list(sizes)} codes need ids of over 31 bits")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern for codebooks of these sizes; it takes arrays of int, and gives int32."""

    sizes: tuple[int, ...]

    name: ClassVar[str]
    version: ClassVar[int] = 1  # changes with what `encode` gives
    pads: ClassVar[bool] = False
    in_order: ClassVar[bool] = False  # codes come as they are stored, and without padding

    def __post_init__(self) -> None:
        require_sizes(self.sizes)
        self._check()

    @property
    def streams(self) -> tuple[int, ...] | None:
        """The codebook of each column of the rows; None if this gives a sequence of ids."""
        return None

    @property
    def kept_sizes(self) -> tuple[int, ...]:
        """The sizes of the codebooks that the model sees."""
        return self.sizes

    @property
    def first_ids(self) -> list[int]:
        """The id of code 0 of each codebook; 0 in rows, where each has a stream of its own."""
        if self.streams is not None:
            return [0] * len(self.kept_sizes)
        return first_ids(self.kept_sizes, pads=self.pads)[:-1]

    @property
    def num_ids(self) -> int:
        """The number of ids of the sequences, or of the stream that has the most."""
        if self.streams is not None:
            return max(self.kept_sizes) + self.pads
        return first_ids(self.kept_sizes, pads=self.pads)[-1]

    def flat(self) -> "Pattern":
        """This pattern as one sequence of ids: its rows one after the other."""
        return self

    def lengths(self, num_frames_B: Numbers) -> Numbers:
        """The number of ids, or of rows, of utterances of so many frames."""
        return self._num_rows(num_frames_B) * (self._width if self.streams is None else 1)

    def encode(self, codes_FK: Codes) -> Codes:
        """Arrange the codes of an utterance as (ids,) or (rows, streams)."""
        codes_FK = np.asarray(codes_FK)
        return self.encode_batch(codes_FK, np.array([len(codes_FK)])).ids

    def encode_batch(self, codes_NK: Codes, num_frames_B: Numbers) -> Documents:
        """Arrange the codes of many utterances, which come one after the other."""
        num_frames_B = np.asarray(num_frames_B, dtype=np.int64)  # cells may be over 31 bits
        self._require_codes(codes_NK, num_frames_B)
        kept_NK = codes_NK[:, : len(self.kept_sizes)]
        first_K = np.array(self.first_ids, dtype=np.int32)
        if self.in_order:
            cells = _sum(kept_NK, first_K).reshape(-1)
        else:
            cells = np.tile(self._empty_row(), int(self._num_rows(num_frames_B).sum()))
            for book, place_N in enumerate(self._places(num_frames_B)):
                cells[place_N] = kept_NK[:, book].astype(np.int32) + first_K[book]
        return Documents(self._shaped(cells), self.lengths(num_frames_B))

    def decode(self, array: Codes) -> Codes:
        """Undo `encode`: codes_FK of the codebooks that the pattern keeps.

        Raises `InputError` if the array is not an output of this pattern.
        """
        cells = self._require_cells(np.asarray(array))
        num_frames_B = np.array([self._num_frames(cells)])
        if num_frames_B[0] < 0 or self._num_rows(num_frames_B)[0] * self._width != len(cells):
            raise InputError(
                f"{len(array)} {self._unit} are not an output of {self.name}: it gives "
                f"{self._lengths}"
            )
        books = zip(self._places(num_frames_B), self.first_ids, strict=True)
        codes_FK = np.stack([cells[place_F] - first for place_F, first in books], axis=1)
        self._require_output(codes_FK, cells)
        return codes_FK.astype(np.int32)

    def codebooks(self, num_frames: int) -> Codes:
        """The codebook of each id of an utterance, in the shape that `encode` gives."""
        num_frames_B = np.array([num_frames])
        found = np.tile(np.array(self._columns), int(self._num_rows(num_frames_B)[0]))
        for book, place_F in enumerate(self._places(num_frames_B)):
            found[place_F] = book
        return self._shaped(found)

    def description(self) -> dict[str, Any]:
        """All that `pattern_from` needs, as plain JSON."""
        settings = {name: getattr(self, name) for name in self.settings()}
        return {
            "name": self.name,
            "version": self.version,
            "codebook_sizes": list(self.sizes),
            **{k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
        }

    @classmethod
    def settings(cls) -> list[str]:
        """The names of what can be set beside the sizes of the codebooks."""
        return [each.name for each in fields(cls) if each.name != "sizes"]

    def _num_rows(self, num_frames_B: Numbers) -> Numbers:
        return num_frames_B * len(self.kept_sizes) // self._width

    def _place(self, frame_N: Numbers, num_frames_N: Numbers, book: int) -> Numbers:
        """The cells for the codes of a codebook, counted row after row in each utterance."""
        return frame_N * len(self.kept_sizes) + book

    def _num_frames(self, cells: Numbers) -> int:
        """Undo `_num_rows`, if the cells are an output of this pattern."""
        return len(cells) // len(self.kept_sizes)

    def _check(self) -> None:
        """Raise `InputError` if the settings do not fit the codebooks."""

    @property
    def _lengths(self) -> str:
        """What lengths an output has, for messages."""
        return f"a multiple of {len(self.kept_sizes)}, whole frames"

    @property
    def _unit(self) -> str:
        return "ids" if self.streams is None else "rows"

    @property
    def _columns(self) -> tuple[int, ...]:
        """The codebook of each column of the rows; one column if the codebooks take turns."""
        return (0,)

    @property
    def _width(self) -> int:
        return len(self._columns)

    def _shaped(self, cells: Codes) -> Codes:
        return cells if self.streams is None else cells.reshape(-1, self._width)

    def _empty_row(self) -> Codes:
        padding = [n + first for n, first in zip(self.kept_sizes, self.first_ids, strict=True)]
        return np.array([padding[book] for book in self._columns], dtype=np.int32)

    def _places(self, num_frames_B: Numbers) -> Iterator[Numbers]:
        """The cells for the codes of each codebook, counted through all utterances."""
        cells_B = self._num_rows(num_frames_B) * self._width
        first_cell_N = np.repeat(np.cumsum(cells_B) - cells_B, num_frames_B)
        first_frame_N = np.repeat(np.cumsum(num_frames_B) - num_frames_B, num_frames_B)
        frame_N = np.arange(len(first_frame_N)) - first_frame_N
        num_frames_N = np.repeat(num_frames_B, num_frames_B)
        for book in range(len(self.kept_sizes)):
            yield first_cell_N + self._place(frame_N, num_frames_N, book)

    def _require_codes(self, codes_NK: Codes, num_frames_B: Numbers) -> None:
        if codes_NK.ndim != 2 or codes_NK.shape[1] != len(self.sizes):
            raise InputError(
                f"codes of shape {codes_NK.shape} do not fit {self.name}, which was made for "
                f"{len(self.sizes)} codebooks: make it for the codebooks of the dataset"
            )
        if codes_NK.dtype.kind not in "iu":
            raise InputError(f"codes are {codes_NK.dtype}; give whole numbers")
        if num_frames_B.sum() != len(codes_NK):
            raise InputError(f"{len(codes_NK)} frames of codes are not {num_frames_B.sum()}")
        if codes_NK.size and (codes_NK.min() < 0 or codes_NK.max() >= min(self.sizes)):
            self._require_legal(codes_NK)

    def _require_legal(self, codes_NK: Codes) -> None:
        wrong_NK = (codes_NK < 0) | (codes_NK >= np.array(self.sizes))
        if wrong_NK.any():
            frame, book = (int(at) for at in np.argwhere(wrong_NK)[0])
            raise InputError(
                f"code {codes_NK[frame, book]} of codebook {book} in frame {frame} is not in "
                f"0..{self.sizes[book] - 1}: see `speechmill verify`"
            )

    def _require_cells(self, array: Codes) -> Numbers:
        shape = (array.size,) if self.streams is None else (array.size // self._width, self._width)
        if array.dtype.kind not in "iu" or array.shape != shape:
            raise InputError(
                f"an array of {array.dtype} and shape {array.shape} is not an output of "
                f"{self.name}; give whole numbers of shape {shape}"
            )
        return array.reshape(-1).astype(np.int64)

    def _require_output(self, codes_FK: Numbers, cells: Numbers) -> None:
        """Raise unless these codes give these cells, with padding where it belongs."""
        legal_FK = np.zeros((len(codes_FK), len(self.sizes)), dtype=np.int64)
        legal_FK[:, : codes_FK.shape[1]] = codes_FK.clip(0, np.array(self.kept_sizes) - 1)
        wrong = np.flatnonzero(self.encode(legal_FK).reshape(-1) != cells)
        if len(wrong):
            at = wrong[0] if self.streams is None else divmod(int(wrong[0]), self._width)
            raise InputError(
                f"{cells[wrong[0]]} at {at} is not an output of {self.name}; take the pattern "
                "that made the array"
            )


def _sum(kept_NK: Codes, first_K: Codes) -> Codes:
    """The codes with the first ids of their codebooks, as int32.

    In stretches of many frames, because numpy takes twice as long for rows of a few numbers.
    """
    sums_NK = np.empty(kept_NK.shape, dtype=np.int32)
    whole = len(kept_NK) // _STRETCH * _STRETCH
    for part, first in (
        (slice(whole), np.tile(first_K, _STRETCH)),
        (slice(whole, None), first_K),
    ):
        shape = (-1, len(first))
        codes, out = kept_NK[part].reshape(shape), sums_NK[part].reshape(shape)
        np.add(codes, first, out=out, dtype=np.int32, casting="unsafe")
    return sums_NK
