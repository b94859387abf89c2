"""How the batches of a shard are encoded: as they come, or in batches that shards share."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from speechmill.codecs.api import Codec
from speechmill.pipeline.errors import StreamBroken
from speechmill.pipeline.metrics import record_batch
from speechmill.pipeline.tokenize.batching import Batch, ShardEnd
from speechmill.pipeline.tokenize.device import DeviceLock, SplittingCodec, pad_clips
from speechmill.pipeline.tokenize.encode_thread import EncodeThread

TakeCodes = Callable[[Batch, npt.NDArray[np.int64]], None]  # a batch and its codes_BFK


@dataclass(frozen=True, slots=True)
class EncodedShard:
    """The end of a shard, and what its codes took."""

    end: ShardEnd
    seconds: float  # of the codec
    starved_seconds: float  # in which the device had no batch
    split_clips: int = 0  # encoded in batches of fewer rows than usual


class ShardEncoder(Protocol):
    """Encodes with one codec; several threads use it at the same time."""

    codec: Codec  # computes as the shards are computed; only inside of `call`

    def encode_shard(self, batches: Iterable[Batch | ShardEnd], take: TakeCodes) -> EncodedShard:
        """Call `take` with every batch and its codes, in any order.

        Raises `StreamBroken` if the batches end without a `ShardEnd`.
        """
        ...

    def call(self, function: Callable[[], Any]) -> Any:
        """Return the result of a function that is called while the device is free."""
        ...


class BatchByBatch:
    """Encodes the batches as they come; the shards in flight take turns."""

    def __init__(self, codec: Codec, lock: DeviceLock | None = None):
        self.codec: Codec = SplittingCodec(codec)
        self._lock = lock or DeviceLock()

    def encode_shard(self, batches: Iterable[Batch | ShardEnd], take: TakeCodes) -> EncodedShard:
        idle, seconds = self._lock.idle, 0.0
        idle.add_shard()
        starved = 0.0
        try:
            for batch in batches:
                if isinstance(batch, ShardEnd):
                    break
                seconds += self._encode(batch, take)
            else:
                raise StreamBroken("the batches of a shard ended before the shard did")
        finally:
            starved = idle.remove_shard()
        return EncodedShard(batch, seconds, starved)

    def call(self, function: Callable[[], Any]) -> Any:
        with self._lock:
            return function()

    def _encode(self, batch: Batch, take: TakeCodes) -> float:
        """Return the seconds that the codec took."""
        lengths = batch.num_samples_B.tolist()
        audio_BT = pad_clips(torch.from_numpy(batch.audio_N), lengths)
        with self._lock:
            started = time.perf_counter()
            codes_BKF = self.codec.encode(audio_BT, torch.from_numpy(batch.num_samples_B)).cpu()
            seconds = time.perf_counter() - started
        take(batch, codes_BKF.transpose(1, 2).numpy())
        rate = self.codec.info.sample_rate
        record_batch(sum(lengths) / rate, len(lengths) * max(lengths) / rate, seconds)
        return seconds


class SharedBatches:
    """Encodes in batches of fixed shapes, together with the other shards in flight."""

    def __init__(self, thread: EncodeThread, position: int, codec: Codec):
        """`position` is that of the codec among those of the thread."""
        self.codec = codec
        self._thread = thread
        self._position = position

    def encode_shard(self, batches: Iterable[Batch | ShardEnd], take: TakeCodes) -> EncodedShard:
        idle = self._thread.idle
        idle.add_shard()
        starved = 0.0
        try:
            with self._thread.shard(self._position) as clips:
                for batch in batches:
                    if isinstance(batch, ShardEnd):
                        break
                    self._thread.add(clips, batch)
                    for encoded in self._thread.take(clips):
                        take(*encoded)
                else:
                    raise StreamBroken("the batches of a shard ended before the shard did")
                self._thread.finish(clips)
                for encoded in self._thread.take(clips):
                    take(*encoded)
        finally:
            starved = idle.remove_shard()
        return EncodedShard(batch, clips.seconds, starved, clips.split_clips)

    def call(self, function: Callable[[], Any]) -> Any:
        return self._thread.call(function)
