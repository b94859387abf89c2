"""Patterns of codes for language models, applied and undone.

A dataset stores codes un-delayed and un-offset. A pattern must be applied once: a reader that
applies it a second time gets noise.

    parallel   row t is frame t
    delay      codebook k comes `shifts[k]` rows later (MusicGen, section 2.2); rows without a
               frame hold the padding code, which is the size of the codebook
    flatten    one sequence, frame after frame; every codebook has its own range of ids
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from speechmill.pipeline.errors import InputError, check_choice

VERSION = 1
NAMES = ("flatten", "delay", "parallel")

Codes = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern for codebooks of these sizes."""

    name: str
    sizes: tuple[int, ...]
    shifts: tuple[int, ...] = ()  # of each codebook, for delay; default 0, 1, 2, …
    first_id: int = 0  # the lowest flat id, for instance the size of a text vocabulary

    def __post_init__(self) -> None:
        check_choice("pattern", self.name, NAMES)
        if self.shifts and (len(self.shifts) != len(self.sizes) or min(self.shifts) < 0):
            raise InputError(f"shifts {self.shifts} are not {len(self.sizes)} numbers from 0 up")

    @property
    def delays(self) -> tuple[int, ...]:
        """The delay of each codebook in rows."""
        if self.name != "delay":
            return (0,) * len(self.sizes)
        return self.shifts or tuple(range(len(self.sizes)))

    @property
    def bases(self) -> npt.NDArray[np.int64]:
        """The flat id of code 0 of each codebook, then the first id after all of them."""
        padding = int(self.name == "delay")
        return np.array(list(accumulate((n + padding for n in self.sizes), initial=self.first_id)))

    def rows(self, codes_FK: Codes) -> Codes:
        """Arrange codes_FK as rows of shape (F + longest delay, K)."""
        num_frames, longest = len(codes_FK), max(self.delays)
        rows_TK = np.tile(np.array(self.sizes, dtype=np.int64), (num_frames + longest, 1))
        for book, delay in enumerate(self.delays):
            rows_TK[delay : delay + num_frames, book] = codes_FK[:, book]
        return rows_TK

    def frames(self, rows_TK: Codes) -> Codes:
        """Undo `rows`."""
        num_frames = len(rows_TK) - max(self.delays)
        columns = [rows_TK[d : d + num_frames, k] for k, d in enumerate(self.delays)]
        return np.stack(columns, axis=1)

    def flat(self, codes_FK: Codes) -> Codes:
        """The rows one after the other, as ids with a range for each codebook."""
        return (self.rows(codes_FK) + self.bases[:-1]).reshape(-1)

    def unflat(self, ids_N: Codes) -> Codes:
        """Undo `flat`."""
        return self.frames(ids_N.reshape(-1, len(self.sizes)).astype(np.int64) - self.bases[:-1])
