"""Rows of an Arrow table in groups."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def group_rows(
    table: pa.Table, keys: Sequence[str], wanted: Sequence[tuple[str, str]] = ()
) -> pa.Table:
    """One row for each group of rows with equal keys, in the order of their first rows.

    Arrow gives them in the order of their hashes. `wanted` has further columns, each with the
    function that aggregates it; they keep their names.
    """
    numbered = table.append_column("row", pa.array(np.arange(len(table))))
    groups = numbered.group_by(keys, use_threads=False)
    found = groups.aggregate([("row", "min"), *wanted]).sort_by("row_min").drop_columns("row_min")
    names = {f"{name}_{function}": name for name, function in wanted}
    return found.rename_columns([names.get(name, name) for name in found.column_names])
