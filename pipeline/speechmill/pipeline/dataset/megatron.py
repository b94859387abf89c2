"""Megatron-Core's indexed dataset, as its `megatron/core/datasets/indexed_dataset.py` reads it.

`.bin` is the ids of every sequence, one behind the other. `.idx`, little-endian: the magic, version
1 (u64), a code of the ids' type (u8), the numbers of sequences and of document ends (u64 each),
then lengths (i32), positions in the `.bin` in bytes (i64) and document ends (i64).
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"MMIDIDX\x00\x00"
_UINT16, _INT32 = (8, np.dtype("<u2")), (4, np.dtype("<i4"))
_UINT16_IDS = 65_500  # what Megatron takes for the limit


def pack(sequences: Sequence[npt.NDArray[Any]], num_ids: int) -> tuple[bytes, bytes]:
    """The `.bin` and the `.idx` of these sequences, each a document; ids are below `num_ids`."""
    code, kind = _UINT16 if num_ids < _UINT16_IDS else _INT32
    lengths = np.array([len(sequence) for sequence in sequences], dtype="<i4")
    ends = np.cumsum(lengths, dtype="<i8") * kind.itemsize
    positions = np.concatenate([[0], ends[:-1]]).astype("<i8") if len(ends) else ends
    documents = np.arange(len(sequences) + 1, dtype="<i8")
    header = MAGIC + struct.pack("<QBQQ", 1, code, len(lengths), len(documents))
    data = b"".join(sequence.astype(kind).tobytes() for sequence in sequences)
    return data, header + lengths.tobytes() + positions.tobytes() + documents.tobytes()
