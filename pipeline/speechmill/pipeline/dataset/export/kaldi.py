"""Kaldi's ark and scp, for ESPnet and others that read with kaldiio."""

import io
import re
import struct

import numpy as np

from speechmill.pipeline.dataset.export.memmap import npy
from speechmill.pipeline.dataset.export.part import Array, Files, Part, json_line
from speechmill.pipeline.storage import join

_FORBIDDEN = re.compile(r"\s")
_ELEMENT = np.dtype([("bytes", "u1"), ("value", "<i4")])  # of a vector, packed


def write(part: Part) -> Files:
    """The files of one part; the scp, which names the others' utterances, comes last.

    An id is the stem of the part and the key, since the scp of all parts are read as one, where the
    second of two equal ids would win. `.jsonl` holds the id and the columns of each row.
    """
    ark, scp, text, lines = io.BytesIO(), [], [], []
    url = join(part.folder, f"{part.stem}.ark")
    for row in part.utterances(_FORBIDDEN):
        utterance = f"{part.stem}/{row.name}"
        ark.write(f"{utterance} ".encode())
        scp.append(f"{utterance} {url}:{ark.tell()}\n")
        ark.write(_vector(row.ids) if row.ids.ndim == 1 else _matrix(row.ids.astype("<i4")))
        lines.append(json_line({"id": utterance} | row.facts))
        if row.facts["text"] is not None:
            text.append(f"{utterance} {' '.join(row.facts['text'].split())}\n")
    yield f"{part.stem}.ark", ark.getvalue()
    yield f"{part.stem}.jsonl", b"".join(lines)
    yield f"{part.stem}.text", "".join(text).encode()
    yield f"{part.stem}.scp", "".join(scp).encode()


def _vector(ids: Array) -> bytes:
    """An int32 vector of Kaldi: each number after its size in bytes."""
    elements = np.empty(len(ids), _ELEMENT)
    elements["bytes"], elements["value"] = 4, ids
    return b"\0B" + struct.pack("<bi", 4, len(ids)) + elements.tobytes()


def _matrix(ids: Array) -> bytes:
    """An array of NumPy, as kaldiio writes it; Kaldi itself has no matrices of integers."""
    data = npy(ids)
    size = len(data).to_bytes((len(data).bit_length() + 7) // 8, "little")
    return b"NPY" + bytes([len(size)]) + size + data
