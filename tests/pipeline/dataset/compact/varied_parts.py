"""Parts whose texts, metadata, channels and rejects vary."""

from collections.abc import Sequence

import numpy as np

from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.errors import RejectStage
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.storage import Storage
from tests.token_parts import empty_dataset, write_rows


def write_dataset(
    root: str, parts: Sequence[Sequence[int]], *, version: int = 1, storage: Storage | None = None
) -> TokenDataset:
    """One part for each entry, which holds the frames of its rows; every third row is a reject."""
    dataset = empty_dataset(root, storage, version=version)
    for number, frames in enumerate(parts):
        add_part(dataset, number, frames, version)
    return dataset


def add_part(dataset: TokenDataset, number: int, frames: Sequence[int], version: int = 1) -> None:
    """The part of the tar of this number; every fourth tar and second recording has no JSON."""
    rows = range(len(frames))
    rejects = [
        Reject(f"r{row}", 3 * row + 2, "r.wav", RejectStage.DECODE, "UndecodableAudio", "bad", 9)
        for row in range(len(frames) // 2)
    ]
    metadata = [None if row % 6 > 2 or number % 4 == 3 else f'{{"n": {row // 3}}}' for row in rows]
    write_rows(
        dataset,
        Shard(f"/in/shard-{number:04d}.tar", 1000 + number, f"etag {number}"),
        frames,
        seed=number,
        version=version,
        rejects=rejects,
        audio_xxh3=np.random.default_rng(number).integers(0, 2**64, len(frames), dtype=np.uint64),
        text=["é" * (row % 4) if row % 5 else None for row in rows],
        metadata=metadata,
        index=[row + row // 2 for row in rows],
    )
