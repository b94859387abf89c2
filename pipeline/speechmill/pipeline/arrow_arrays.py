"""Arrow arrays in the processes of a run.

`pyarrow.array` and `pyarrow.scalar` import pandas where it is installed, which Ray sees to. That
takes half a second of CPU time and 50 MB in each of the many processes that decode.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def of_numbers(values_N: npt.NDArray[Any]) -> pa.Array:
    """The numbers of an array, in its memory if they are contiguous there; never null."""
    memory = pa.py_buffer(np.ascontiguousarray(values_N))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values_N.dtype), len(values_N), [None, memory])


def of_values(values: Sequence[Any], type: pa.DataType) -> pa.Array:
    """Numbers or strings that the type can hold; None is null. Raises `OverflowError`."""
    missing_N = np.array([value is None for value in values], dtype=bool)
    nulls = pa.py_buffer(np.packbits(~missing_N, bitorder="little")) if missing_N.any() else None
    if pa.types.is_string(type):
        texts = [(value or "").encode() for value in values]
        ends_N = np.cumsum([0, *map(len, texts)])
        if ends_N[-1] > np.iinfo(np.int32).max:
            raise OverflowError("more than 2 GiB of text in one array")
        buffers = [ends_N.astype(np.int32), b"".join(texts)]
    else:
        present = [0 if value is None else value for value in values]
        buffers = [np.array(present, dtype=type.to_pandas_dtype())]
    return pa.Array.from_buffers(type, len(values), [nulls, *map(pa.py_buffer, buffers)])
