"""Rows of a token dataset: their schema, and what they are made of on the way."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechmill.pipeline.audio.decoders import Samples, to_float
from speechmill.pipeline.shards.tar_reader import Reject

SCHEMA_VERSION = 1
LAYOUT = "flat frame-major"  # frame 0 codebooks 0..K-1, frame 1 codebooks 0..K-1, …

# Without what the codec adds; the order of the columns is that of `token_schema`.
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
_ROWS = pa.schema([_KEY, *_ROW_FIELDS])

REJECT_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("start", pa.float64()),  # null where the whole sample is rejected
        pa.field("end", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance or piece of one, decoded, on its way into a batch."""

    key: str
    index: int
    audio_T: Samples  # int16 or float32, at the codec's rate, with the context of a window
    start: float  # s, without the context
    end: float  # s
    first_frame: int  # of those that the codec gives for `audio_T`
    num_frames: int
    sample_rate: int  # Hz, of the source
    num_channels: int  # of the source
    audio_xxh3: int
    text: str | None
    metadata: str | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips one behind the other, with all that their rows need but the codes."""

    audio_N: Samples  # int16 or float32, N samples of all clips; padding would only travel
    num_samples_B: npt.NDArray[np.int64]
    first_frame_B: npt.NDArray[np.int64]  # of each row, among the frames of its clip
    num_frames_B: npt.NDArray[np.int64]
    rows: pa.RecordBatch
    codec: int = 0  # position among the codecs of the run


@dataclass(frozen=True, slots=True)
class ShardEnd:
    """Closes the stream of a shard's batches: without it the shard is not whole."""

    rejects: list[Reject]
    num_bad_json: int
    decode_seconds: float = 0.0  # that reading and decoding took
    decode_cpu_seconds: float = 0.0  # of them spent computing
    codec: int = 0  # position among the codecs of the run


def split(items: Iterable[Batch | ShardEnd], count: int) -> list[Iterator[Batch | ShardEnd]]:
    """What is meant for each codec, for readers in threads of their own, up to its `ShardEnd`.

    Each holds what the others have come across while they looked for their own.
    """
    stream, turn = iter(items), threading.Lock()
    waiting: list[deque[Batch | ShardEnd]] = [deque() for _ in range(count)]

    def reader(codec: int) -> Iterator[Batch | ShardEnd]:
        while True:
            with turn:
                while not waiting[codec]:
                    item = next(stream, None)
                    if item is None:
                        return
                    waiting[item.codec].append(item)
                found = waiting[codec].popleft()
            yield found
            if isinstance(found, ShardEnd):
                return

    return [reader(codec) for codec in range(count)]


def token_schema(codebook_sizes: Sequence[int]) -> pa.Schema:
    """The columns of `tokens/*.parquet`; codes are uint16, or uint32 where a codebook needs it."""
    code = pa.uint16() if max(codebook_sizes) <= 2**16 else pa.uint32()
    item = pa.field("element", code, nullable=False)
    return pa.schema(
        [
            _KEY,
            pa.field("codes", pa.list_(item), nullable=False),
            pa.field("num_frames", pa.int32(), nullable=False),
            pa.field("num_codebooks", pa.uint8(), nullable=False),
            *_ROW_FIELDS,
        ]
    )


def collate(clips: Sequence[Clip], shard_url: str, codec: int = 0) -> Batch:
    """Join the clips of a batch; int16 if all of them are, else float32."""
    num_samples_B = np.array([len(clip.audio_T) for clip in clips], dtype=np.int64)
    exact = all(clip.audio_T.dtype == np.int16 for clip in clips)
    audio_N = np.concatenate([c.audio_T if exact else to_float(c.audio_T) for c in clips])
    first_frame_B = np.array([clip.first_frame for clip in clips], dtype=np.int64)
    num_frames_B = np.array([clip.num_frames for clip in clips], dtype=np.int64)
    rows = _rows(clips, shard_url)
    return Batch(audio_N, num_samples_B, first_frame_B, num_frames_B, rows, codec)


def _rows(clips: Sequence[Clip], shard_url: str) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        "key": [clip.key for clip in clips],
        "start": [clip.start for clip in clips],
        "end": [clip.end for clip in clips],
        "sample_rate": [clip.sample_rate for clip in clips],
        "num_channels": [clip.num_channels for clip in clips],
        "duration": [clip.end - clip.start for clip in clips],
        "audio_xxh3": np.array([clip.audio_xxh3 for clip in clips], dtype=np.uint64),
        "text": [clip.text for clip in clips],
        "metadata": [clip.metadata for clip in clips],
        "shard": [shard_url] * len(clips),
        "index": [clip.index for clip in clips],
    }
    return pa.RecordBatch.from_pydict(columns, schema=_ROWS)


def with_codes(
    rows: pa.RecordBatch,
    codes_BFK: npt.NDArray[np.int64],
    first_frame_B: npt.NDArray[np.int64],
    num_frames_B: npt.NDArray[np.int64],
    schema: pa.Schema,
) -> pa.RecordBatch:
    """Add the codes of a batch to its rows, flat and frame-major, without padding and context."""
    num_codebooks = codes_BFK.shape[2]
    frame_BF = np.arange(codes_BFK.shape[1]) - first_frame_B[:, None]
    valid_BF = (frame_BF >= 0) & (frame_BF < num_frames_B[:, None])
    item = schema.field("codes").type.value_field
    flat = pa.array(codes_BFK[valid_BF].reshape(-1), type=pa.int64()).cast(item.type)
    offsets = np.concatenate([[0], np.cumsum(num_frames_B * num_codebooks)]).astype(np.int32)
    added = {
        "codes": pa.ListArray.from_arrays(pa.array(offsets), flat, type=schema.field("codes").type),
        "num_frames": pa.array(num_frames_B, type=pa.int32()),
        "num_codebooks": pa.array(np.full(len(num_frames_B), num_codebooks, dtype=np.uint8)),
    }
    return pa.RecordBatch.from_arrays(
        [added[name] if name in added else rows.column(name) for name in schema.names],
        schema=schema,
    )


def reject_table(rejects: Sequence[Reject], shard_url: str) -> pa.Table:
    """The rows of `rejects/*.parquet`, in order of their position in the tar."""
    names = [name for name in REJECT_SCHEMA.names if name != "shard"]
    ordered = sorted(rejects, key=lambda reject: (reject.index, reject.start or 0.0))
    columns = {name: [getattr(reject, name) for reject in ordered] for name in names}
    return pa.Table.from_pydict(
        columns | {"shard": [shard_url] * len(ordered)}, schema=REJECT_SCHEMA
    )


def row_name(key: str, start: float) -> str:
    """A name for one row's file: the key, and for what is not the first of its clip the ms too."""
    return f"{key}@{round(start * 1000)}" if start else key
