"""An endless, shuffled stream of the samples of WebDataset shards, continued where it stopped.

An epoch gives every sample to one worker, once. What a worker gets depends only on the shards, the
seed, its rank and the number of workers. So a stream that starts at a `StreamState` continues with
the same samples.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np

from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.errors import ShardError
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.shards.tar_reader import Reject, Sample, read_samples
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.text import shown

ItemT = TypeVar("ItemT")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamState:
    """The position of a worker's stream."""

    epoch: int = 0
    shard: int = 0  # in the order of this worker's shards in this epoch
    sample: int = 0  # of that shard, the first that is not read yet
    drawn: int = 0  # samples given out in this epoch
    waiting: tuple[tuple[int, int], ...] = ()  # (shard, sample) of the samples in the buffer

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"waiting": [list(pair) for pair in self.waiting]}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "StreamState":
        waiting = tuple((int(shard), int(sample)) for shard, sample in saved["waiting"])
        return cls(**{**saved, "waiting": waiting})


@dataclass(frozen=True, slots=True)
class WorkerSplit:
    """The part of every epoch that belongs to one worker."""

    rank: int = 0
    world_size: int = 1

    def shards(self, order: list[int]) -> list[int]:
        """Return every n-th shard, or all if there are fewer shards than workers."""
        return order[self.rank :: self.world_size] if self._by_shard(order) else order

    def has(self, order: list[int], sample: int) -> bool:
        """Return whether a sample of one of these shards is this worker's."""
        return self._by_shard(order) or sample % self.world_size == self.rank

    def _by_shard(self, order: list[int]) -> bool:
        return len(order) >= self.world_size


@dataclass(frozen=True, slots=True)
class ShuffledSample:
    """One sample as it leaves the shuffle buffer."""

    sample: Sample
    seed: tuple[int, ...]  # for every random choice about its crop
    state: StreamState  # after it


@dataclass
class SampleStream:
    """The stream of one worker."""

    shards: list[Shard]
    storage: Storage
    seed: int
    buffer_size: int
    split: WorkerSplit = field(default_factory=WorkerSplit)
    limits: Limits = field(default_factory=Limits)
    audio_member: str | None = None  # suffix of the audio if a sample has several

    def samples(self, state: StreamState) -> Iterator[ShuffledSample]:
        """Yield samples without end, from a position on."""
        while True:
            yield from self._epoch(state)
            state = StreamState(epoch=state.epoch + 1)

    def _epoch(self, start: StreamState) -> Iterator[ShuffledSample]:
        order = self._order(start.epoch)
        incoming = self._incoming(order, start.shard, start.sample)
        buffer = self._refill(order, start)
        # Parallel to the buffer, because listing it again for each sample is slow.
        waiting = list(start.waiting)
        at, drawn = (start.shard, start.sample), start.drawn
        while True:
            while len(buffer) < self.buffer_size and (read := next(incoming, None)):
                shard, sample = read
                buffer.append(sample)
                waiting.append((shard, sample.index))
                at = (shard, sample.index + 1)
            if not buffer:
                return
            seed = (self.seed, start.epoch, self.split.rank, drawn)
            chosen = int(np.random.default_rng(seed).integers(len(buffer)))
            sample, _ = _take(buffer, chosen), _take(waiting, chosen)
            drawn += 1
            state = StreamState(start.epoch, *at, drawn, tuple(waiting))
            yield ShuffledSample(sample, seed, state)

    def _order(self, epoch: int) -> list[int]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.shards))
        return [int(shard) for shard in order]

    def _incoming(self, order: list[int], shard: int, sample: int) -> Iterator[tuple[int, Sample]]:
        mine = self.split.shards(order)
        for place in range(shard, len(mine)):
            first = sample if place == shard else 0
            for each in self._read(self.shards[mine[place]], first):
                if self.split.has(order, each.index):
                    yield place, each

    def _refill(self, order: list[int], start: StreamState) -> list[Sample]:
        """Read the samples of the buffer again, in their order there."""
        mine = self.split.shards(order)
        found: dict[tuple[int, int], Sample] = {}
        for place in sorted({shard for shard, _ in start.waiting}):
            wanted = {sample for shard, sample in start.waiting if shard == place}
            for sample in self._read(self.shards[mine[place]], min(wanted)):
                if sample.index in wanted:
                    found[place, sample.index] = sample
                    wanted.remove(sample.index)
                if not wanted:
                    break
        return [found[pair] for pair in start.waiting]

    def _read(self, shard: Shard, first: int) -> Iterator[Sample]:
        """Yield the samples of a shard; damaged ones are left out with a warning."""
        try:
            for sample in read_samples(
                shard,
                self.storage,
                self.limits.member_bytes,
                max_metadata_bytes=self.limits.metadata_bytes,
                audio_member=self.audio_member,
            ):
                if sample.index < first:
                    continue
                if isinstance(sample, Reject):
                    logger.warning("left out %s: %s", shown(sample.key), shown(sample.message))
                else:
                    yield sample
        except ShardError as error:
            logger.warning("left out the rest of a shard: %s", shown(error))


def intact_samples(
    shards: list[str], storage: Storage, max_member_bytes: int, audio_member: str | None = None
) -> Iterator[Sample]:
    """Yield the samples of shards once, in their order; damaged ones are left out."""
    for shard in list_shards(shards, storage):
        for sample in read_samples(shard, storage, max_member_bytes, audio_member=audio_member):
            if isinstance(sample, Sample):
                yield sample


def _take(items: list[ItemT], index: int) -> ItemT:
    """Remove and return an item; the last one takes its place."""
    items[index], items[-1] = items[-1], items[index]
    return items.pop()
