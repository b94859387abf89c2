"""Rows of a token dataset, and the documents of ids that a language model reads."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Codes = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Utterances:
    """Some rows of a dataset; their codes are a view of what Arrow read.

    `codes_NK` has the frames of all rows, one row after the other, as uint16 or uint32.
    """

    codes_NK: Codes
    num_frames_B: npt.NDArray[np.int64]
    table: pa.Table  # one row each: the columns that were read, with `codes`

    def __len__(self) -> int:
        return len(self.num_frames_B)


@dataclass(frozen=True, slots=True)
class Documents:
    """Sequences of ids, one after the other: of shape (N,), or (N, C) for C streams."""

    ids: npt.NDArray[np.int32]
    lengths_B: npt.NDArray[np.int64]


class Encoder(Protocol):
    """Turns rows into documents: a pattern with its vocabulary, or a template with text."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What it needs of the dataset beside the codes, such as `text`."""
        ...

    def encode(self, utterances: Utterances) -> Documents:
        """One document for each row, in their order; of length 0 for a row that gives none."""
        ...


def utterances_of(table: pa.Table, num_codebooks: int) -> Utterances:
    """The rows of a table with the column `codes`; their codes must have this many codebooks."""
    column = table["codes"]
    codes = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # that copies
    offsets_B1 = codes.offsets.to_numpy()
    values = codes.values.to_numpy()[offsets_B1[0] : offsets_B1[-1]]
    return Utterances(
        codes_NK=values.reshape(-1, num_codebooks),
        num_frames_B=np.diff(offsets_B1).astype(np.int64) // num_codebooks,
        table=table,
    )
