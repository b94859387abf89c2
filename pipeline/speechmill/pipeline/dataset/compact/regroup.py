"""Rows of many small files in row groups of a size that is good to read and to shuffle."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechmill.pipeline.tokenize.writer import GROUP_TEXT, ROWS_PER_GROUP

# 8 MiB as uint16, 5 to 7 MB in a file. Reading them from a store takes longer than the request
# for them, and a reader that shuffles holds dozens of groups.
GROUP_CODES = 2**22


def regrouped(
    tables: Iterable[pa.Table],
    rows: int = ROWS_PER_GROUP,
    codes: int = GROUP_CODES,
    text: int = GROUP_TEXT,
) -> Iterator[pa.Table]:
    """The same rows in order, in tables of at most so many rows, codes and characters of text.

    A longer row is a table of its own. The JSON of a recording counts once for each table.
    """
    limits_L = np.array([rows, codes, text])
    held: list[pa.Table] = []
    used_L = np.zeros(3, np.int64)
    for table in tables:
        sizes_BL = np.cumsum(_sizes(table), axis=0)
        start, before_L = 0, np.zeros(3, np.int64)
        while start < len(table):
            room_L = limits_L - used_L + before_L
            ends = [np.searchsorted(sizes_BL[:, i], room_L[i], "right") for i in range(3)]
            stop = max(int(min(ends)), start if held else start + 1)
            if stop > start:
                held.append(table.slice(start, stop - start))
                used_L += sizes_BL[stop - 1] - before_L
                start, before_L = stop, sizes_BL[stop - 1]
            if start < len(table):
                yield _joined(held)
                held, used_L = [], np.zeros(3, np.int64)
    if held:
        yield _joined(held)


def _sizes(table: pa.Table) -> npt.NDArray[np.int64]:
    """Of each row 1, its codes, and its text with the metadata that no row before it has."""
    metadata = table["metadata"].unify_dictionaries().combine_chunks()
    values, lengths_V = metadata.indices, pc.binary_length(metadata.dictionary).to_numpy()
    used_U, first_U = np.unique(values.fill_null(-1).to_numpy(), return_index=True)
    text_B = pc.fill_null(pc.binary_length(table["text"]), 0).to_numpy().astype(np.int64)
    text_B[first_U[used_U >= 0]] += lengths_V[used_U[used_U >= 0]]
    codes_B = pc.list_value_length(table["codes"]).to_numpy().astype(np.int64)
    return np.stack([np.ones_like(codes_B), codes_B, text_B], axis=1)


def _joined(tables: list[pa.Table]) -> pa.Table:
    """One table of one chunk, whose metadata has only the values that its rows use."""
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    place = table.schema.get_field_index("metadata")
    metadata = table["metadata"].combine_chunks()
    used_U, first_U = np.unique(metadata.indices.drop_null().to_numpy(), return_index=True)
    used_U = used_U[np.argsort(first_U)]  # in the order in which rows use them
    positions_V = np.zeros(len(metadata.dictionary), np.int32)
    positions_V[used_U] = np.arange(len(used_U))
    positions = pa.array(positions_V).take(metadata.indices)
    column = pa.DictionaryArray.from_arrays(positions, metadata.dictionary.take(used_U))
    return table.set_column(place, table.schema.field(place), column)
