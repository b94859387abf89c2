"""Rows of many small files in row groups of a size that is good to read and to shuffle."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechmill.pipeline.dataset.same_recording import rows_at_end
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

    Rows of one recording stay together unless they are too many for a table, so that a reader can
    join them. A row that is too long is a table of its own. The JSON of a recording counts once for
    each table.
    """
    limits_L = np.array([rows, codes, text])
    held: list[pa.Table] = []
    used_L = np.zeros(3, np.int64)
    for table in tables:
        left = table
        while len(left):
            sizes_BL = used_L + np.cumsum(_sizes(left), axis=0)
            fitting = int((sizes_BL <= limits_L).all(axis=1).sum())
            count = fitting if held else max(fitting, 1)
            if count:
                held.append(left.slice(0, count))
                used_L = sizes_BL[count - 1]
            left = left.slice(count)
            if len(left):
                full, begun = _parted(pa.concat_tables(held), left)
                yield _joined(full)
                held, used_L = [], np.zeros(3, np.int64)
                if len(begun):
                    held, used_L = [begun], _sizes(begun).sum(axis=0)
    if held:
        yield _joined(pa.concat_tables(held))


def _parted(table: pa.Table, following: pa.Table) -> tuple[pa.Table, pa.Table]:
    """A table without the rows at its end whose recording goes on, and these rows."""
    ends = len(table) - rows_at_end(table, following.slice(0, 1)) or len(table)
    return table.slice(0, ends), table.slice(ends)


def _sizes(table: pa.Table) -> npt.NDArray[np.int64]:
    """Of each row 1, its codes, and its text with the metadata that no row before it has."""
    metadata = table["metadata"].unify_dictionaries().combine_chunks()
    values, lengths_V = metadata.indices, pc.binary_length(metadata.dictionary).to_numpy()
    used_U, first_U = np.unique(values.fill_null(-1).to_numpy(), return_index=True)
    text_B = pc.fill_null(pc.binary_length(table["text"]), 0).to_numpy().astype(np.int64)
    text_B[first_U[used_U >= 0]] += lengths_V[used_U[used_U >= 0]]
    codes_B = pc.list_value_length(table["codes"]).to_numpy().astype(np.int64)
    return np.stack([np.ones_like(codes_B), codes_B, text_B], axis=1)


def _joined(table: pa.Table) -> pa.Table:
    """The table as one chunk, whose metadata has only the values that its rows use."""
    table = table.unify_dictionaries().combine_chunks()
    place = table.schema.get_field_index("metadata")
    metadata = table["metadata"].combine_chunks()
    used_U, first_U = np.unique(metadata.indices.drop_null().to_numpy(), return_index=True)
    used_U = used_U[np.argsort(first_U)]  # in the order in which rows use them
    positions_V = np.zeros(len(metadata.dictionary), np.int32)
    positions_V[used_U] = np.arange(len(used_U))
    positions = pa.array(positions_V).take(metadata.indices)
    column = pa.DictionaryArray.from_arrays(positions, metadata.dictionary.take(used_U))
    return table.set_column(place, table.schema.field(place), column)
