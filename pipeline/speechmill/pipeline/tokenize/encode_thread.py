"""One thread per process that encodes the clips of all shards in flight, batch by batch.

The thread lives as long as the process: cuDNN keeps what it learned about a shape per thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from speechmill.pipeline.errors import DeviceBroken, StreamBroken
from speechmill.pipeline.metrics import record_batch
from speechmill.pipeline.tokenize.batching import Batch
from speechmill.pipeline.tokenize.bucket_pool import (
    BucketPool,
    EncodedBatch,
    FixedBatch,
    ShardClips,
)
from speechmill.pipeline.tokenize.device import IdleTime
from speechmill.pipeline.tokenize.fixed_batches import BatchEncoder, Launched

_READY_BATCHES = 4  # full batches of a codec from which on its shards wait
_IDLE_SECONDS = 1.0  # of the device, after which it encodes an incomplete batch

Call = tuple[Callable[[], Any], "Future[Any]"]


class EncodeThread:
    """Encodes for several codecs; shards give their batches and get them back with codes.

    An incomplete batch waits for clips of other shards until more than `waiting_shards` shards have
    nothing else to do than to wait, no shard has more clips, or the device was idle for a second.
    """

    def __init__(self, encoders: Sequence[BatchEncoder], waiting_shards: int):
        self.idle = IdleTime()
        self._encoders = encoders
        self._pools = [BucketPool(n, e.info, e.shapes) for n, e in enumerate(encoders)]
        self._waiting_shards = waiting_shards
        self._changed = threading.Condition()
        self._shards: list[ShardClips] = []
        self._ended: list[ShardClips] = []  # the first to end comes first
        self._calls: deque[Call] = deque()
        self._broken: Exception | None = None
        self._stopping = False
        self._finished = 0.0  # the last batch, time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="encode", daemon=True)
        self._thread.start()

    @contextmanager
    def shard(self, codec: int) -> Iterator[ShardClips]:
        """A shard for the codec in this position."""
        clips = ShardClips(codec)
        with self._changed:
            self._shards.append(clips)
        try:
            yield clips
        finally:
            with self._changed:
                self._pools[codec].drop(clips)
                self._shards.remove(clips)
                with suppress(ValueError):
                    self._ended.remove(clips)
                self._changed.notify_all()

    def add(self, clips: ShardClips, batch: Batch) -> None:
        """Give a batch of the decoder; waits while there is enough to do."""
        with self._changed:
            pool = self._pools[clips.codec]
            self._wait(clips, lambda: len(pool.full) < _READY_BATCHES)
            pool.add(batch, clips)
            self._changed.notify_all()

    def take(self, clips: ShardClips) -> list[EncodedBatch]:
        """Return the batches of the decoder that are encoded now, and forget them."""
        with self._changed:
            taken, clips.encoded = clips.encoded, []
        return taken

    def finish(self, clips: ShardClips) -> None:
        """Wait until all clips of a shard are encoded."""
        with self._changed:
            clips.ended_at = time.monotonic()
            self._ended.append(clips)
            self._changed.notify_all()
            self._wait(clips, lambda: not clips.waiting)

    def call(self, function: Callable[[], Any]) -> Any:
        """Return the result of a function that the thread calls between two batches."""
        future: Future[Any] = Future()
        with self._changed:
            if self._broken:
                raise self._broken
            self._calls.append((function, future))
            self._changed.notify_all()
        return future.result()

    def close(self) -> None:
        """End the thread after its current batch."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _wait(self, clips: ShardClips, done: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._broken or clips.error or done())
        if error := self._broken or clips.error:
            raise error

    def _run(self) -> None:
        flying: tuple[FixedBatch, Launched] | None = None
        try:
            while True:
                self.idle.set_busy(flying is not None)
                batch = self._next(wait=flying is None)
                self.idle.set_busy(flying is not None or batch is not None)
                launched = self._launch(batch) if batch else None
                if flying:
                    self._finish(*flying)
                elif batch is None:
                    return self._end(StreamBroken("encoding was stopped"))
                flying = launched
        except DeviceBroken as error:
            self._end(error)
        except BaseException as error:  # a worker without this thread must start again
            self._end(DeviceBroken(f"encoding ended with {type(error).__name__}: {error}"))
            raise

    def _end(self, error: Exception) -> None:
        """Raise an error wherever somebody waits for this thread."""
        with self._changed:
            self._broken = error
            while self._calls:
                self._calls.popleft()[1].set_exception(error)
            self._changed.notify_all()

    def _next(self, wait: bool) -> FixedBatch | None:
        """Return the next batch; None if there is none yet, or the thread is to end."""
        idle_since = time.monotonic()
        while True:
            self._answer_calls()
            with self._changed:
                if self._stopping:
                    return None
                pool = max(self._pools, key=lambda pool: len(pool.full))
                if pool.full:
                    self._changed.notify_all()
                    return pool.full.popleft()
                if (owner := self._overdue(idle_since)) is not None:
                    return self._pools[owner.codec].take_partial(owner)
                if not wait:
                    return None
                if not self._calls:
                    self._changed.wait(_IDLE_SECONDS if self._ended else None)

    def _overdue(self, idle_since: float) -> ShardClips | None:
        """Return the shard that has waited longest, if it should not wait any longer."""
        incomplete = [clips for clips in self._ended if clips.pooled]
        if not incomplete:
            return None
        first = incomplete[0]
        late = len(incomplete) > self._waiting_shards * len(self._pools)
        last = len(self._ended) == len(self._shards)
        idle = time.monotonic() - max(idle_since, first.ended_at) >= _IDLE_SECONDS
        return first if late or last or idle else None

    def _answer_calls(self) -> None:
        while True:
            with self._changed:
                if not self._calls:
                    return
                function, future = self._calls.popleft()
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)
                if isinstance(error, DeviceBroken):
                    raise

    def _launch(self, batch: FixedBatch) -> tuple[FixedBatch, Launched] | None:
        try:
            return batch, self._encoders[batch.codec].launch(batch)
        except DeviceBroken:
            raise
        except Exception as error:
            self._fail(batch, error)
            return None

    def _finish(self, batch: FixedBatch, launched: Launched) -> None:
        try:
            codes_RFK = self._encoders[batch.codec].finish(launched)
            self._deliver(batch, launched, codes_RFK)
        except DeviceBroken:
            raise
        except Exception as error:
            self._fail(batch, error)

    def _deliver(
        self, batch: FixedBatch, launched: Launched, codes_RFK: npt.NDArray[np.int64]
    ) -> None:
        """Give the codes of a batch to the shards that its clips came from."""
        now = time.perf_counter()
        # From the end of the batch before it, because the device computes one after the other.
        seconds = now - max(launched.started, self._finished)
        self._finished = now
        samples = sum(len(clip.audio_T) for clip in batch.clips)
        with self._changed:
            for clip, codes_FK in zip(batch.clips, codes_RFK, strict=False):
                owner = clip.owner
                owner.waiting -= 1
                owner.seconds += seconds * len(clip.audio_T) / samples
                owner.split_clips += launched.split
                clip.part.put(clip.row, codes_FK)
            self._changed.notify_all()
        encoder = self._encoders[batch.codec]
        rate = encoder.info.sample_rate
        record_batch(samples / rate, encoder.padded_samples(batch) / rate, seconds)

    def _fail(self, batch: FixedBatch, error: Exception) -> None:
        """End the shards that have clips in a batch."""
        with self._changed:
            for clip in batch.clips:
                clip.owner.error = error
            self._changed.notify_all()
