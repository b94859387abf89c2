"""`.bin` and `.idx` of Megatron-Core, which NeMo reads as well; each utterance is a document."""

import io
import struct

import numpy as np

from speechmill.pipeline.dataset.export.part import Files, Part, Whole
from speechmill.pipeline.storage import join

BLEND = "blend.txt"
_MAGIC = b"MMIDIDX\x00\x00"
_UINT16, _INT32 = (8, np.dtype("<u2")), (4, np.dtype("<i4"))  # code and type of the ids
_UINT16_IDS = 65_500  # Megatron uses uint16 below this number of ids


def write(part: Part) -> Files:
    """The files of one part, in the format of `megatron/core/datasets/indexed_dataset.py`.

    `.bin` holds the ids of all documents, concatenated. `.idx`, little-endian: the magic, version 1
    (u64), a code of the ids' type (u8), the numbers of documents and of their ends (u64 each), then
    lengths (i32), positions in the `.bin` in bytes (i64) and document ends (i64).
    """
    code, kind = _UINT16 if part.num_ids < _UINT16_IDS else _INT32
    sink, lengths = io.BytesIO(), []
    for rows in part.groups:
        sink.write(rows.documents.ids.astype(kind).data)
        lengths.append(rows.documents.lengths_B)
    yield f"{part.stem}.bin", sink.getvalue()
    lengths_B = np.concatenate(lengths)
    positions_B = (np.cumsum(lengths_B) - lengths_B) * kind.itemsize
    ends = np.arange(len(lengths_B) + 1, dtype="<i8")
    header = _MAGIC + struct.pack("<QBQQ", 1, code, len(lengths_B), len(ends))
    arrays = (lengths_B.astype("<i4"), positions_B.astype("<i8"), ends)
    yield f"{part.stem}.idx", header + b"".join(array.tobytes() for array in arrays)


def describe(whole: Whole) -> Files:
    """For `--data-args-path`: the number of ids of each part, as its weight, and its prefix."""
    written = [record for record in whole.records if record.files]
    lines = (f"{record.ids} {join(whole.folder, record.stem)}\n" for record in written)
    yield BLEND, "".join(lines).encode()
