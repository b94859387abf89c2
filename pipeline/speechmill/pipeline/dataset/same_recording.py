"""Which rows of a token dataset are of one recording."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def rows_at_end(table: pa.Table, row: pa.Table) -> int:
    """How many rows at the end of a table are of the same recording as a table of one row."""
    same = pc.and_(
        pc.equal(table["index"], row["index"][0]), pc.equal(table["shard"], row["shard"][0])
    )
    others = np.flatnonzero(~same.to_numpy())
    return len(table) - (int(others[-1]) + 1 if len(others) else 0)
