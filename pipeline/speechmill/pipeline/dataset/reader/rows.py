"""The rows of a row group in memory, as a reader gives them out."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from speechmill.pipeline.dataset.documents import Codes, Encoder, Utterances

Item = dict[str, Any]


class Rows(Protocol):
    """Rows by their number in the row group."""

    def __getitem__(self, row: int) -> Any: ...


@dataclass(frozen=True, slots=True)
class PlainRows:
    """Utterances as they are stored, each with its codes_FK as a tensor."""

    codes_NK: Codes  # a view of what Arrow read
    bounds: list[int]  # the first frame of each row, then the number of frames
    columns: dict[str, list[Any]]

    @classmethod
    def of(cls, utterances: Utterances, columns: tuple[str, ...]) -> "PlainRows":
        table = utterances.table
        none = [None] * len(utterances)
        values = {
            name: table[name].to_pylist() if name in table.column_names else none
            for name in columns
        }
        return cls(utterances.codes_NK, _bounds(utterances.num_frames_B), values)

    def __getitem__(self, row: int) -> Item:
        codes_FK = self.codes_NK[self.bounds[row] : self.bounds[row + 1]]
        # A copy, because workers send tensors with all the memory that they are a view of.
        item: Item = {"codes": torch.from_numpy(codes_FK.copy())}
        for name, values in self.columns.items():
            item[name] = values[row]
        return item


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """The ids of the document of each row; none for a row that is in the document of another."""

    ids: npt.NDArray[np.int32]
    bounds: list[int]

    @classmethod
    def of(cls, utterances: Utterances, encoder: Encoder) -> "EncodedRows":
        documents = encoder.encode(utterances)
        return cls(documents.ids, _bounds(documents.lengths_B))

    def __getitem__(self, row: int) -> npt.NDArray[np.int32]:
        return self.ids[self.bounds[row] : self.bounds[row + 1]]


def _bounds(lengths_B: npt.NDArray[np.int64]) -> list[int]:
    return [0, *np.cumsum(lengths_B).tolist()]


def selected(utterances: Utterances, mask_B: npt.NDArray[np.bool_]) -> Utterances:
    """Those of the rows for which the mask is true."""
    if mask_B.all():
        return utterances
    codes_NK = utterances.codes_NK[np.repeat(mask_B, utterances.num_frames_B)]
    num_frames_B = utterances.num_frames_B[mask_B]
    offsets = np.append(0, np.cumsum(num_frames_B * codes_NK.shape[1])).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(codes_NK.reshape(-1)))
    others = utterances.table.drop_columns(["codes"]).filter(pa.array(mask_B))
    return Utterances(codes_NK, num_frames_B, others.append_column("codes", lists))
