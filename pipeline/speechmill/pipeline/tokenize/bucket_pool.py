"""Clips of all shards in flight, collected into batches of fixed shapes.

The codes of a clip do not depend on which clips share its batch, so shards fill each other's
batches. A batch that stays incomplete is completed with silence, which costs as much as clips.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.shapes import BatchShapes
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.tokenize.batching import Batch

EncodedBatch = tuple[Batch, npt.NDArray[np.int64]]  # of the decoder, and its codes_BFK


@dataclass(eq=False, slots=True)
class ShardClips:
    """What one shard gave to the pool and got back, for one codec."""

    codec: int  # position among the codecs of the run
    ended_at: float = 0.0  # time.monotonic() since when all of its clips are in the pool
    waiting: int = 0  # clips without codes
    pooled: int = 0  # clips that are in no full batch yet
    seconds: float = 0.0  # its share of the time of the batches
    split_clips: int = 0  # encoded in batches of fewer rows, because memory ran out
    error: Exception | None = None
    encoded: list[EncodedBatch] = field(default_factory=list)


class PartlyEncoded:
    """A batch of the decoder, whose clips are encoded in different batches of the device."""

    def __init__(self, batch: Batch, owner: ShardClips, info: CodecInfo):
        self.batch, self.owner = batch, owner
        self.frames = [info.num_frames(samples) for samples in batch.num_samples_B.tolist()]
        shape = (len(self.frames), max(self.frames), info.num_codebooks)
        self.codes_BFK = np.zeros(shape, dtype=np.int64)
        self.missing = len(self.frames)

    def clips(self) -> Iterator["PooledClip"]:
        starts = np.cumsum(self.batch.num_samples_B) - self.batch.num_samples_B
        for row, (start, size) in enumerate(
            zip(starts.tolist(), self.batch.num_samples_B.tolist(), strict=True)
        ):
            yield PooledClip(self, row, self.batch.audio_N[start : start + size])

    def put(self, row: int, codes_FK: npt.NDArray[np.int64]) -> None:
        """Take the codes of a clip; the last one makes the batch available to its shard."""
        frames = self.frames[row]
        self.codes_BFK[row, :frames] = codes_FK[:frames]
        self.missing -= 1
        if not self.missing:
            self.owner.encoded.append((self.batch, self.codes_BFK))


@dataclass(frozen=True, eq=False, slots=True)
class PooledClip:
    """One clip of a batch of the decoder."""

    part: PartlyEncoded
    row: int
    audio_T: Samples  # int16 or float32

    @property
    def owner(self) -> ShardClips:
        return self.part.owner


@dataclass(frozen=True, eq=False, slots=True)
class FixedBatch:
    """At most as many clips as a batch of this width has rows."""

    codec: int
    bucket: int  # position of the width among the shapes
    clips: list[PooledClip]


class BucketPool:
    """The clips of one codec that wait for a full batch."""

    def __init__(self, codec: int, info: CodecInfo, shapes: BatchShapes):
        self._codec, self._info, self._shapes = codec, info, shapes
        self._partial: dict[int, list[PooledClip]] = {}
        self.full: deque[FixedBatch] = deque()

    def add(self, batch: Batch, owner: ShardClips) -> None:
        """Raises `InvalidAudio` for a clip that is longer than the widest batch."""
        buckets = [self._shapes.bucket(samples) for samples in batch.num_samples_B.tolist()]
        part = PartlyEncoded(batch, owner, self._info)
        for bucket, clip in zip(buckets, part.clips(), strict=True):
            owner.waiting += 1
            owner.pooled += 1
            self._partial.setdefault(bucket, []).append(clip)
            if len(self._partial[bucket]) == self._shapes.rows[bucket]:
                self.full.append(self._take(bucket))

    def take_partial(self, owner: ShardClips) -> FixedBatch:
        """Return the incomplete batch with clips of `owner` that lacks the smallest share."""
        mine = [b for b, clips in self._partial.items() if any(c.owner is owner for c in clips)]
        return self._take(max(mine, key=self._share))

    def drop(self, owner: ShardClips) -> None:
        """Forget the clips of a shard."""
        for bucket in list(self._partial):
            kept = [clip for clip in self._partial.pop(bucket) if clip.owner is not owner]
            if kept:
                self._partial[bucket] = kept

    def _share(self, bucket: int) -> float:
        return len(self._partial[bucket]) / self._shapes.rows[bucket]

    def _take(self, bucket: int) -> FixedBatch:
        batch = FixedBatch(self._codec, bucket, self._partial.pop(bucket))
        for clip in batch.clips:
            clip.owner.pooled -= 1
        return batch
