"""Arrays for `np.load(…, mmap_mode="r")`: the ids of all documents, and where each one ends."""

import io

import numpy as np

from speechmill.pipeline.dataset.export.part import Array, Files, Part


def write(part: Part) -> Files:
    """`<part>.ids.npy`, of shape (N,) or (N, streams), and `<part>.ends.npy`, int64."""
    ids, lengths = [], []
    for rows in part.groups:
        ids.append(rows.documents.ids.astype(part.kind))
        lengths.append(rows.documents.lengths_B)
    yield f"{part.stem}.ids.npy", npy(np.concatenate(ids))
    yield f"{part.stem}.ends.npy", npy(np.cumsum(np.concatenate(lengths), dtype="<i8"))


def npy(array: Array) -> bytes:
    """A `.npy` file."""
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(array), allow_pickle=False)
    return sink.getvalue()
