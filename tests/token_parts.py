"""Token datasets made without audio, for tests of what is done with their rows."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from speechmill.codecs import codec_info
from speechmill.pipeline.audio.recordings import ClipAudioSettings, RecordingSettings
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.errors import RejectStage
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.schema import ROW_SCHEMA, distinct_strings, token_schema
from speechmill.pipeline.tokenize.writer import PartWriter
from tests.one_shard import PROVENANCE

INFO = codec_info("null")


def write_dataset(
    root: str, parts: Sequence[Sequence[int]], *, version: int = 1, storage: Storage | None = None
) -> TokenDataset:
    """One part for each entry, which holds the frames of its rows; every third row is a reject."""
    dataset = TokenDataset(root, storage or Storage())
    audio = ClipAudioSettings(channels="mean" if version == 1 else "each")
    dataset.claim(dataset_identity(INFO, "fp32", RecordingSettings(audio)))
    for number, frames in enumerate(parts):
        add_part(dataset, number, frames, version)
    return dataset


def add_part(dataset: TokenDataset, number: int, frames: Sequence[int], version: int = 1) -> None:
    """The part of the tar of this number."""
    shard = Shard(f"/in/shard-{number:04d}.tar", 1000 + number, f"etag {number}")
    random = np.random.default_rng(number)
    # Every second recording, and every fourth shard, has no JSON.
    metadata = [
        None if row % 6 > 2 or number % 4 == 3 else f'{{"n": {row // 3}}}'
        for row in range(len(frames))
    ]
    columns = {
        "key": [f"{number}-{row}" for row in range(len(frames))],
        "codes": [random.integers(0, 1024, 8 * count, dtype=np.uint16) for count in frames],
        "num_frames": frames,
        "num_codebooks": [8] * len(frames),
        "start": [0.0] * len(frames),
        "end": [count / 50 for count in frames],
        "sample_rate": [16_000] * len(frames),
        "num_channels": [version] * len(frames),
        "duration": [count / 50 for count in frames],
        "audio_xxh3": random.integers(0, 2**64, len(frames), dtype=np.uint64),
        "text": ["é" * (row % 4) if row % 5 else None for row in range(len(frames))],
        "metadata": distinct_strings(metadata),
        "shard": [shard.url] * len(frames),
        "index": [row + row // 2 for row in range(len(frames))],
        "channel": [row % 2 for row in range(len(frames))],
    }
    schema = token_schema(INFO.codebook_sizes, version)
    place = schema.get_field_index("metadata")
    schema = schema.set(place, ROW_SCHEMA.field("metadata"))
    rows = pa.RecordBatch.from_pydict({n: columns[n] for n in schema.names}, schema=schema)
    rejects = [
        Reject(f"r{row}", 3 * row + 2, "r.wav", RejectStage.DECODE, "UndecodableAudio", "bad", 9)
        for row in range(len(frames) // 2)
    ]
    with PartWriter(dataset.root, shard, dataset.storage, INFO, PROVENANCE, version) as writer:
        writer.add(rows)
        writer.close(ShardEnd(rejects))
