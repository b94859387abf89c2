"""The schema of a token dataset, and tables that have it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechmill.pipeline.arrow_arrays import of_numbers, of_values
from speechmill.pipeline.audio.recordings import EACH
from speechmill.pipeline.errors import RejectStage
from speechmill.pipeline.shards.tar_reader import Reject

SCHEMA_VERSIONS = (1, 2)  # 2 has the column `channel`
LAYOUT = "flat frame-major"  # frame 0 codebooks 0..K-1, frame 1 codebooks 0..K-1, …

# The columns that follow the codes in `token_schema`.
_ROW_FIELDS = [
    pa.field("start", pa.float64(), nullable=False),
    pa.field("end", pa.float64(), nullable=False),
    pa.field("sample_rate", pa.int32(), nullable=False),
    pa.field("num_channels", pa.uint8(), nullable=False),
    pa.field("duration", pa.float64(), nullable=False),
    pa.field("audio_xxh3", pa.uint64(), nullable=False),
    pa.field("text", pa.string()),
    pa.field("metadata", pa.string()),
    pa.field("shard", pa.string(), nullable=False),
    pa.field("index", pa.int32(), nullable=False),
]
_KEY = pa.field("key", pa.string(), nullable=False)
_CHANNEL = pa.field("channel", pa.uint8())  # null: the recording has one channel
# In memory, the JSON of a recording is there once for all of its rows.
_DISTINCT = pa.field("metadata", pa.dictionary(pa.int32(), pa.string()))
ROW_SCHEMA = pa.schema(  # of rows without codes
    [_KEY, *(_DISTINCT if field.name == "metadata" else field for field in _ROW_FIELDS), _CHANNEL]
)

_REJECT_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("start", pa.float64()),  # null if the whole sample is rejected
        pa.field("end", pa.float64()),
    ]
)


def schema_version(channels: object) -> int:
    """The version that a dataset has with this `audio.channels`."""
    return 2 if channels == EACH else 1


def reject_schema(version: int) -> pa.Schema:
    """The columns of `rejects/*.parquet`."""
    return _REJECT_SCHEMA if version == 1 else _REJECT_SCHEMA.append(_CHANNEL)


def token_schema(codebook_sizes: Sequence[int], version: int = 1) -> pa.Schema:
    """The columns of `tokens/*.parquet`; codes are uint16, or uint32 if a codebook needs it."""
    code = pa.uint16() if max(codebook_sizes) <= 2**16 else pa.uint32()
    item = pa.field("element", code, nullable=False)
    return pa.schema(
        [
            _KEY,
            pa.field("codes", pa.list_(item), nullable=False),
            pa.field("num_frames", pa.int32(), nullable=False),
            pa.field("num_codebooks", pa.uint8(), nullable=False),
            *_ROW_FIELDS,
            *([] if version == 1 else [_CHANNEL]),
        ]
    )


def with_codes(
    rows: pa.RecordBatch,
    codes_BFK: npt.NDArray[np.int64],
    first_frame_B: npt.NDArray[np.int64],
    num_frames_B: npt.NDArray[np.int64],
    schema: pa.Schema,
) -> pa.RecordBatch:
    """Add the codes of a batch to its rows: flat, frame-major, without padding and context."""
    num_codebooks = codes_BFK.shape[2]
    bounds = zip(codes_BFK, first_frame_B.tolist(), num_frames_B.tolist(), strict=True)
    own_NK = np.concatenate([codes_FK[first : first + count] for codes_FK, first, count in bounds])
    item = schema.field("codes").type.value_field
    flat = of_numbers(own_NK.reshape(-1)).cast(item.type)
    ends_B = np.cumsum(num_frames_B * num_codebooks)
    offsets = of_numbers(np.concatenate([[0], ends_B]).astype(np.int32))
    added = {
        "codes": pa.ListArray.from_arrays(offsets, flat, type=schema.field("codes").type),
        "num_frames": of_numbers(num_frames_B).cast(pa.int32()),
        "num_codebooks": of_numbers(np.full(len(num_frames_B), num_codebooks, dtype=np.uint8)),
    }
    fields = [field if field.name in added else rows.field(field.name) for field in schema]
    return pa.RecordBatch.from_arrays(
        [added[name] if name in added else rows.column(name) for name in schema.names],
        schema=pa.schema(fields),
    )


def distinct_strings(values: Sequence[str | None]) -> pa.DictionaryArray:
    """The strings, each of them stored once, in the order in which they first come."""
    distinct = dict.fromkeys(value for value in values if value is not None)
    places: dict[str | None, int] = {value: place for place, value in enumerate(distinct)}
    indices = of_values([places.get(value) for value in values], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, of_values(list(distinct), pa.string()))


def reject_table(rejects: Sequence[Reject], shard_url: str, version: int = 1) -> pa.Table:
    """The rows of `rejects/*.parquet`, in order of their position in the tar."""
    schema = reject_schema(version)
    ordered = sorted(rejects, key=lambda reject: (reject.index, reject.start or 0.0))
    columns = {
        name: [shard_url if name == "shard" else getattr(reject, name) for reject in ordered]
        for name in schema.names
    }
    return pa.Table.from_pydict(columns, schema=schema)


def rejects_of(table: pa.Table) -> list[Reject]:
    """The rejects of a table like that; raises `ValueError` or `TypeError` for another one."""
    rows = table.drop_columns("shard").to_pylist()
    return [Reject(**row | {"stage": RejectStage(row["stage"])}) for row in rows]


def channels_of(table: pa.Table) -> list[int | None]:
    """The channel of each row; only None in a dataset of version 1."""
    if "channel" not in table.column_names:
        return [None] * len(table)
    return list(table["channel"].to_pylist())


def row_label(key: str, start: float, channel: int | None) -> str:
    """What messages call a row."""
    label = f"{key!r} at {start:g} s"
    return label if channel is None else f"{label}, channel {channel}"


def row_name(key: str, start: float, channel: int | None) -> str:
    """A file name for one row: the key, with the start in ms if it is not 0, and the channel."""
    name = f"{key}@{round(start * 1000)}" if start else key
    return name if channel is None else f"{name}.ch{channel}"
