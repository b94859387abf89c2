"""Token datasets of made-up codes, written by the real writer without audio."""

from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from speechmill.codecs import codec_info
from speechmill.pipeline.audio.recordings import RecordingSettings
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize import writer
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.schema import ROW_SCHEMA, token_schema, with_codes
from tests.one_shard import PROVENANCE

CODEC = "null"  # of 8 codebooks of 1024 codes


def make_token_dataset(
    root: str,
    num_frames: Sequence[Sequence[int]],
    storage: Storage | None = None,
    *,
    rows_per_group: int = 4096,
    codec: str = CODEC,
    segments: int = 1,
) -> TokenDataset:
    """A dataset with a part for each list of numbers of frames.

    Row `3-7` is of recording 7 of part 3, and a recording has so many segments.
    """
    dataset = TokenDataset(root, storage or Storage())
    dataset.claim(dataset_identity(codec_info(codec), "fp32", RecordingSettings()))
    for number, frames_B in enumerate(num_frames):
        write_part(
            dataset,
            number,
            frames_B,
            rows_per_group=rows_per_group,
            codec=codec,
            segments=segments,
        )
    return dataset


def write_part(
    dataset: TokenDataset,
    number: int,
    num_frames: Sequence[int],
    *,
    rows_per_group: int = 4096,
    codec: str = CODEC,
    segments: int = 1,
) -> str:
    """Write the part of a shard; returns its name. Text and metadata follow from the row."""
    info, shard = codec_info(codec), Shard(f"/corpus/train-{number:05}.tar", 1000 + number, "e")
    frames_B = np.array(num_frames, dtype=np.int64)
    sizes, longest = info.codebook_sizes, int(max(frames_B, default=0))
    generator = np.random.default_rng(number)
    codes_BFK = generator.integers(0, sizes, (len(frames_B), longest, len(sizes)))
    rows = _rows(number, shard.url, frames_B / info.frame_rate, segments)
    first_B = np.zeros_like(frames_B)
    schema = token_schema(sizes)
    with (
        patch.object(writer, "ROWS_PER_GROUP", rows_per_group),
        writer.PartWriter(dataset.root, shard, dataset.storage, info, PROVENANCE) as part,
    ):
        if len(frames_B):
            part.add(with_codes(rows, codes_BFK, first_B, frames_B, schema))
        part.close(ShardEnd(rejects=[]))
    return shard.name


def _rows(number: int, shard: str, seconds_B: np.ndarray, segments: int) -> pa.RecordBatch:
    indices = range(len(seconds_B))
    metadata = pa.array(['{"lang": "en"}' if i % 2 else '{"lang": "de"}' for i in indices])
    columns = {
        "key": [f"{number}-{i // segments}" for i in indices],
        "start": [float(i % segments) for i in indices],
        "end": seconds_B + [i % segments for i in indices],
        "sample_rate": [16_000] * len(seconds_B),
        "num_channels": [1] * len(seconds_B),
        "duration": seconds_B,
        "audio_xxh3": list(indices),
        "text": [f"row {i}" for i in indices],
        "metadata": metadata.dictionary_encode(),
        "shard": [shard] * len(seconds_B),
        "index": [i // segments for i in indices],
        "channel": [None] * len(seconds_B),
    }
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], field.type)
        for field in ROW_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=ROW_SCHEMA)
