"""Parquet with a column `input_ids`, or a column of codes for each stream."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.pipeline.dataset.export.part import Array, Files, Part, Rows

_REPETITIVE = ("sample_rate", "num_channels", "metadata", "shard")


def write(part: Part) -> Files:
    """One file with the row groups of the part."""
    sink = io.BytesIO()
    first = _table(next(part.groups), part)
    with pq.ParquetWriter(
        sink,
        first.schema,
        compression="zstd",
        use_dictionary=[*_REPETITIVE, *(f"{name}.list.element" for name in _lists(first))],
        write_page_checksum=True,
        store_schema=False,  # or readers would get metadata as a dictionary
        dictionary_pagesize_limit=2**30,  # the JSON of a group may be larger than 1 MiB
    ) as file:
        file.write_table(first)
        for rows in part.groups:
            file.write_table(_table(rows, part))
    yield f"{part.stem}.parquet", sink.getvalue()


def _table(rows: Rows, part: Part) -> pa.Table:
    """The columns of the dataset, with the ids in the place of the codes."""
    ids = rows.documents.ids
    offsets = pa.array(np.concatenate([[0], np.cumsum(rows.documents.lengths_B)]), pa.int32())
    streams = {"input_ids": ids} if ids.ndim == 1 else _streams(ids.astype(part.kind))
    table = rows.table
    for name, ids_N in streams.items():
        table = table.append_column(name, pa.ListArray.from_arrays(offsets, pa.array(ids_N)))
    return table


def _streams(ids_NC: Array) -> dict[str, Array]:
    return {f"codes_{stream}": ids_NC[:, stream] for stream in range(ids_NC.shape[1])}


def _lists(table: pa.Table) -> list[str]:
    return [field.name for field in table.schema if pa.types.is_list(field.type)]
