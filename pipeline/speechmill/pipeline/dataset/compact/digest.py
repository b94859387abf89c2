"""A digest of the rows of tables, however they are cut into chunks and encoded."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash


class ContentDigest:
    """Takes the tables of a file one after the other; tables of equal rows have equal digests."""

    def __init__(self) -> None:
        self.rows = 0
        self._columns: dict[str, list[Any]] = {}

    def update(self, table: pa.Table) -> None:
        if not len(table):
            return
        self.rows += len(table)
        for name, column in zip(table.column_names, table.columns, strict=True):
            hashes = self._columns.setdefault(name, [xxhash.xxh3_128() for _ in range(3)])
            for chunk in column.chunks:
                # Chunks may be cut anywhere, so each kind of buffer has a hash of its own.
                for digest, data in zip(hashes, _buffers(chunk), strict=False):
                    digest.update(data)

    def by_column(self) -> dict[str, str]:
        """32 hexadecimal digits for each column; empty without rows."""
        return {
            name: xxhash.xxh3_128_hexdigest(b"".join(digest.digest() for digest in hashes))
            for name, hashes in self._columns.items()
        }


def _buffers(array: pa.Array) -> list[Any]:
    """Which values are null, the values, and the lengths of lists and texts."""
    nulls = array.is_null().to_numpy(zero_copy_only=False)
    kind = array.type
    if pa.types.is_dictionary(kind):
        values = [xxhash.xxh3_64_intdigest(v.encode()) for v in array.dictionary.to_pylist()]
        return [nulls, _numbers(pa.array(values, pa.uint64()).take(array.indices))]
    if pa.types.is_string(kind):
        _, offsets, text = array.buffers()
        start, *_, end = np.frombuffer(offsets, np.int32)[array.offset :][: len(array) + 1]
        lengths = pc.fill_null(pc.binary_length(array), 0)
        return [nulls, memoryview(text or b"")[start:end], _numbers(lengths)]
    if pa.types.is_list(kind):
        return [nulls, _numbers(array.flatten()), _numbers(pc.list_value_length(array))]
    return [nulls, _numbers(array)]


def _numbers(array: pa.Array) -> npt.NDArray[Any]:
    """The numbers of an array, 0 for a null."""
    numbers = array.fill_null(0) if array.null_count else array
    return np.ascontiguousarray(numbers.to_numpy(zero_copy_only=False))
