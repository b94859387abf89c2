"""Token datasets of made-up codes, written by the real writer without audio."""

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from speechmill.codecs import codec_info
from speechmill.pipeline.audio.recordings import ClipAudioSettings, RecordingSettings
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize import writer
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.schema import ROW_SCHEMA, distinct_strings, token_schema
from tests.one_shard import PROVENANCE

CODEC = "null"  # of 8 codebooks of 1024 codes


def empty_dataset(
    root: str, storage: Storage | None = None, *, codec: str = CODEC, version: int = 1
) -> TokenDataset:
    dataset = TokenDataset(root, storage or Storage())
    audio = ClipAudioSettings(channels="mean" if version == 1 else "each")
    dataset.claim(dataset_identity(codec_info(codec), "fp32", RecordingSettings(audio)))
    return dataset


def write_rows(
    dataset: TokenDataset,
    shard: Shard,
    num_frames: Sequence[int],
    *,
    seed: int = 0,
    codec: str = CODEC,
    version: int = 1,
    rows_per_group: int = 4096,
    rejects: Sequence[Reject] = (),
    **columns: Sequence[Any],
) -> str:
    """Write the part of a shard, with a row of random codes for each number of frames.

    `columns` replace what rows hold otherwise. Returns the name of the part.
    """
    info, count = codec_info(codec), len(num_frames)
    random, sizes = np.random.default_rng(seed), info.codebook_sizes
    seconds = np.array(num_frames) / info.frame_rate
    values = {
        "key": [f"{seed}-{row}" for row in range(count)],
        "codes": [random.integers(0, sizes, (n, len(sizes))).reshape(-1) for n in num_frames],
        "num_frames": num_frames,
        "num_codebooks": [len(sizes)] * count,
        "start": [0.0] * count,
        "end": seconds,
        "sample_rate": [16_000] * count,
        "num_channels": [version] * count,
        "duration": seconds,
        "audio_xxh3": range(count),
        "text": [f"row {row}" for row in range(count)],
        "metadata": ['{"lang": "en"}' if row % 2 else '{"lang": "de"}' for row in range(count)],
        "shard": [shard.url] * count,
        "index": range(count),
        "channel": [row % 2 for row in range(count)],
    } | columns
    schema = token_schema(sizes, version)
    place = schema.get_field_index("metadata")
    schema = schema.set(place, ROW_SCHEMA.field("metadata"))
    arrays = [
        distinct_strings(values[field.name])
        if field.name == "metadata"
        else pa.array(values[field.name], field.type)
        for field in schema
    ]
    part = writer.PartWriter(dataset.root, shard, dataset.storage, info, PROVENANCE, version)
    with patch.object(writer, "ROWS_PER_GROUP", rows_per_group), part:
        part.add(pa.RecordBatch.from_arrays(arrays, schema=schema))
        part.close(ShardEnd(list(rejects)))
    return shard.name


def make_token_dataset(
    root: str,
    num_frames: Sequence[Sequence[int]],
    storage: Storage | None = None,
    *,
    codec: str = CODEC,
    **options: int,
) -> TokenDataset:
    """A dataset with a part for each list of numbers of frames; row `3-7` is the 7th of part 3.

    `options` are those of `write_part`.
    """
    dataset = empty_dataset(root, storage, codec=codec)
    for number, frames in enumerate(num_frames):
        write_part(dataset, number, frames, codec=codec, **options)
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
    """Write the part of the shard of this number; each recording has so many segments, as rows."""
    rows = np.arange(len(num_frames))
    starts, recordings = (rows % segments).astype(float), rows // segments
    return write_rows(
        dataset,
        Shard(f"/corpus/train-{number:05}.tar", 1000 + number, "e"),
        num_frames,
        seed=number,
        rows_per_group=rows_per_group,
        codec=codec,
        key=[f"{number}-{recording}" for recording in recordings],
        start=starts,
        end=starts + np.array(num_frames) / codec_info(codec).frame_rate,
        index=recordings,
    )
