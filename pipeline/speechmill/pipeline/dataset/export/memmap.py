"""Arrays for `np.load(…, mmap_mode="r")`: the ids of all documents, and where each one ends."""

import io

import numpy as np

from speechmill.pipeline.dataset.export.part import Array, Files, Part


def write(part: Part) -> Files:
    """`<part>.ids.npy`, of shape (N,) or (N, streams), and `<part>.ends.npy`, int64."""
    groups, lengths = [], []
    for rows in part.groups:
        groups.append(rows.documents.ids.astype(part.kind))
        lengths.append(rows.documents.lengths_B)
    ids = np.concatenate(groups)
    groups.clear()  # they are as large as the part
    yield f"{part.stem}.ids.npy", npy(ids)
    yield f"{part.stem}.ends.npy", npy(np.cumsum(np.concatenate(lengths), dtype="<i8"))


def npy(array: Array) -> bytes:
    """A `.npy` file."""
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(array), allow_pickle=False)
    return sink.getvalue()
