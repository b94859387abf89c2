"""Parquet files that are in memory as a whole."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a file, with its checksums verified; columns that it lacks are left out.

    Arrow's threads have no part in it, as they have in `pq.read_table`: they may hold `data` for
    some milliseconds longer, and Python before 3.14 aborts a process that ends in this time.
    """
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    return file.read(None if columns is None else list(columns), use_threads=False)
