"""Training batches out of WebDataset shards: shuffled, cropped, and continued where they stopped.

An epoch gives every sample to one worker, once. What a worker is given depends on the shards, the
seed, its rank and the number of workers alone, so a stream that is told its `Position` goes on
with the same crops, to the last bit.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from speechmill.jobs.training.augment import Augment, Crop
from speechmill.jobs.training.random_access import Recording
from speechmill.pipeline.audio.decoders import Limits, Samples
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.errors import InputError, SampleError, ShardError, StorageUnavailable
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject, Sample, read_samples
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import audio_suffix

ENHANCED = "enhanced.flac"  # the member that `speechmill enhance` adds to a sample
_ATTEMPTS = 5  # to read on in a shard when storage is unavailable
_PAUSE = 2.0  # s, before the second attempt; doubled for each one after

ItemT = TypeVar("ItemT")

logger = logging.getLogger(__name__)


@dataclass
class DataSettings:
    """How samples become batches."""

    crop_seconds: float = 2.0
    batch_size: int = 16  # crops in a step of one worker
    shuffle_buffer: int = 1000  # encoded samples from which the next is drawn
    prefetch: int = 4  # batches made ahead of the step
    threads: int = 2  # that decode

    def __post_init__(self) -> None:
        sizes = (self.crop_seconds, self.batch_size, self.shuffle_buffer, self.threads)
        if min(sizes) <= 0 or self.prefetch < 0:
            raise InputError(f"every size of data must be above 0: {self}")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a worker's stream stands."""

    epoch: int = 0
    shard: int = 0  # of those that are this worker's in this epoch, in their order
    sample: int = 0  # of that shard, the first that is not taken in
    drawn: int = 0  # samples given out in this epoch
    waiting: tuple[tuple[int, int], ...] = ()  # (shard, sample) of what the buffer holds

    def as_dict(self) -> dict[str, object]:
        return {
            "epoch": self.epoch,
            "shard": self.shard,
            "sample": self.sample,
            "drawn": self.drawn,
            "waiting": [list(pair) for pair in self.waiting],
        }


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every epoch is this worker's."""

    rank: int = 0
    world_size: int = 1

    def of(self, shards: list[int]) -> list[int]:
        """Every n-th shard, or all where there are fewer shards than workers."""
        return shards[self.rank :: self.world_size] if self._by_shard(shards) else shards

    def holds(self, shards: list[int], sample: int) -> bool:
        return self._by_shard(shards) or sample % self.world_size == self.rank

    def _by_shard(self, shards: list[int]) -> bool:
        return len(shards) >= self.world_size


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample as it leaves the shuffle buffer."""

    sample: Sample
    seed: tuple[int, ...]  # of everything random about its crop
    position: Position  # behind it


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops side by side, and where the stream stands behind them."""

    audio_BT: Samples  # float32
    enhanced_BT: Samples | None
    keys: list[str]
    position: Position


@dataclass
class SampleStream:
    """An endless, shuffled stream of one worker's samples."""

    shards: list[Shard]
    storage: Storage
    seed: int
    buffer_size: int
    share: Share = field(default_factory=Share)
    limits: Limits = field(default_factory=Limits)

    def draws(self, position: Position) -> Iterator[Draw]:
        while True:
            yield from self._epoch(position)
            position = Position(epoch=position.epoch + 1)

    def _epoch(self, start: Position) -> Iterator[Draw]:
        order = self._order(start.epoch)
        incoming = self._incoming(order, start.shard, start.sample)
        buffer = self._refill(order, start)
        waiting = list(start.waiting)  # who is in the buffer; to list them anew is slow
        at, drawn = (start.shard, start.sample), start.drawn
        while True:
            while len(buffer) < self.buffer_size and (taken := next(incoming, None)):
                shard, sample = taken
                buffer.append(sample)
                waiting.append((shard, sample.index))
                at = (shard, sample.index + 1)
            if not buffer:
                return
            seed = (self.seed, start.epoch, self.share.rank, drawn)
            chosen = int(np.random.default_rng(seed).integers(len(buffer)))
            sample, _ = _take(buffer, chosen), _take(waiting, chosen)
            drawn += 1
            yield Draw(sample, seed, Position(start.epoch, *at, drawn, tuple(waiting)))

    def _order(self, epoch: int) -> list[int]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.shards))
        return [int(shard) for shard in order]

    def _incoming(self, order: list[int], shard: int, sample: int) -> Iterator[tuple[int, Sample]]:
        mine = self.share.of(order)
        for place in range(shard, len(mine)):
            first = sample if place == shard else 0
            for each in self._samples(self.shards[mine[place]], first):
                if self.share.holds(order, each.index):
                    yield place, each

    def _refill(self, order: list[int], start: Position) -> list[Sample]:
        """Read again what the buffer held, in the order in which it lay there."""
        mine = self.share.of(order)
        found: dict[tuple[int, int], Sample] = {}
        for place in sorted({shard for shard, _ in start.waiting}):
            wanted = {sample for shard, sample in start.waiting if shard == place}
            for sample in self._samples(self.shards[mine[place]], min(wanted)):
                if sample.index in wanted:
                    found[place, sample.index] = sample
                    wanted.remove(sample.index)
                if not wanted:
                    break
        return [found[pair] for pair in start.waiting]

    def _samples(self, shard: Shard, first: int) -> Iterator[Sample]:
        """Yield a shard's samples; what is damaged is left out with a warning."""
        attempt = 1
        while True:
            try:
                for sample in read_samples(shard, self.storage, int(self.limits.member_mb * 1e6)):
                    if sample.index >= first:
                        first = sample.index + 1
                        if isinstance(sample, Reject):
                            logger.warning("left out %s: %s", sample.key, sample.message)
                        else:
                            yield sample
                return
            except StorageUnavailable as error:
                if attempt == _ATTEMPTS:
                    raise
                logger.warning("reading on in %s after: %s", shard.url, error)
                time.sleep(_PAUSE * 2 ** (attempt - 1))
                attempt += 1
            except ShardError as error:
                logger.warning("left out the rest of a shard: %s", error)
                return


@dataclass(frozen=True)
class Cropper:
    """Turns a sample into one crop at the codec's rate."""

    sample_rate: int
    num_samples: int
    enhanced: bool  # whether each sample must hold its enhanced version
    augment: Augment
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)

    def crop(self, sample: Sample, seed: tuple[int, ...]) -> Crop | None:
        """Return None for a sample whose audio is damaged."""
        random = np.random.default_rng((*seed, 1))
        try:
            recording = self._open(sample, audio_suffix(sample, self.audio.member))
            pair = self._pair(sample, recording.num_samples) if self.enhanced else None
            start = int(random.integers(max(1, recording.num_samples - self.num_samples + 1)))
            audio_T = recording.cut(start, self.num_samples)
            pair_T = None if pair is None else pair.cut(start, self.num_samples)
        except SampleError as error:
            logger.warning("left out %s: %s", sample.key, error)
            return None
        return self.augment(Crop(audio_T, pair_T, sample.key), random)

    def _open(self, sample: Sample, suffix: str) -> Recording:
        return Recording(sample.members[suffix], self.sample_rate, self.audio, self.limits)

    def _pair(self, sample: Sample, num_samples: int) -> Recording:
        if ENHANCED not in sample.members:
            raise InputError(
                f"enhancement is offline, but sample {sample.key!r} has no .{ENHANCED}; run "
                "`speechmill enhance` on these shards, or set enhancement to online, clean or none"
            )
        pair = self._open(sample, ENHANCED)
        if abs(pair.num_samples - num_samples) > 1:  # resampling may round the last sample away
            raise InputError(
                f"sample {sample.key!r} has {num_samples} samples at {self.sample_rate} Hz, its "
                f".{ENHANCED} {pair.num_samples}; they must be one recording in time"
            )
        return pair


def _take(items: list[ItemT], index: int) -> ItemT:
    """Take an item out; the last one takes its place."""
    items[index], items[-1] = items[-1], items[index]
    return items.pop()


def batches(
    stream: SampleStream, cropper: Cropper, settings: DataSettings, position: Position
) -> Iterator[Batch]:
    """Yield batches without end, decoded in threads ahead of whoever takes them."""
    with ThreadPoolExecutor(settings.threads, thread_name_prefix="decode") as pool:
        pending: deque[tuple[Future[Crop | None], Position]] = deque()
        crops: list[Crop] = []
        used = False
        for draw in stream.draws(position):
            pending.append((pool.submit(cropper.crop, draw.sample, draw.seed), draw.position))
            if len(pending) <= 2 * settings.threads:
                continue
            future, behind = pending.popleft()
            if behind.epoch > position.epoch + 1 and not used:
                raise InputError("a whole epoch had no audio that can be decoded; see the warnings")
            if crop := future.result():
                used = True
                crops.append(crop)
            if len(crops) == settings.batch_size:
                yield collate(crops, behind)
                crops = []


def collate(crops: list[Crop], position: Position) -> Batch:
    """Put crops side by side."""
    enhanced = [crop.enhanced_T for crop in crops if crop.enhanced_T is not None]
    return Batch(
        audio_BT=np.stack([crop.audio_T for crop in crops]),
        enhanced_BT=np.stack(enhanced) if enhanced else None,
        keys=[crop.key for crop in crops],
        position=position,
    )


class Prefetch:
    """Runs an iterator in a thread of its own, a few items ahead; use it as a context."""

    def __init__(self, make: Callable[[], Iterator[Batch]], ahead: int):
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(max(1, ahead))
        self._stopped = threading.Event()
        self._make = make
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)  # so that a `put` that waits can end
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def __next__(self) -> Batch:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _run(self) -> None:
        try:
            for batch in self._make():
                self._queue.put(batch)
                if self._stopped.is_set():
                    return
        except BaseException as error:  # whatever it is, whoever waits for a batch must get it
            self._queue.put(error)


def restore(saved: dict[str, object]) -> Position:
    """The position that `as_dict` gave."""
    position = Position(**{k: v for k, v in saved.items() if k != "waiting"})  # type: ignore[arg-type]
    pairs = saved["waiting"]
    assert isinstance(pairs, list)
    return replace(position, waiting=tuple((int(a), int(b)) for a, b in pairs))
