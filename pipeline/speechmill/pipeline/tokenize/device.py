"""The device of a codec: shared by shards, and never overfilled.

`DeviceLock` lets the shards in flight share the device, `IdleTime` measures how long it lacked
audio, and `SplittingCodec` splits a batch that does not fit into memory.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.api import Codec
from speechmill.pipeline.device_errors import broken_device, is_full
from speechmill.pipeline.errors import DeviceFull
from speechmill.pipeline.metrics import STARVED_SECONDS, record

Result = TypeVar("Result")


class IdleTime:
    """Measures how long a device with shards had nothing to compute, for lack of audio."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._account = threading.Lock()
        self._shards = 0
        self._busy = False
        self._changed = clock()
        self._starved = 0.0

    def set_busy(self, busy: bool) -> None:
        self._change(busy=busy)

    def add_shard(self) -> None:
        """Count a shard in flight: from now on an idle device is one that starves."""
        self._change(shards=1)

    def remove_shard(self) -> float:
        """End a shard; return the seconds of starving not yet returned for another shard."""
        self._change(shards=-1)
        with self._account:
            starved, self._starved = self._starved, 0.0
        return starved

    def _change(self, busy: bool | None = None, shards: int = 0) -> None:
        with self._account:
            now = self._clock()
            if self._shards and not self._busy:
                self._starved += now - self._changed
                record(STARVED_SECONDS, now - self._changed)
            self._changed = now
            self._shards += shards
            self._busy = self._busy if busy is None else busy


class DeviceLock:
    """Held while the codec computes."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.idle = IdleTime(clock)
        self._device = threading.Lock()

    def __enter__(self) -> "DeviceLock":
        self._device.acquire()
        self.idle.set_busy(True)
        return self

    def __exit__(self, *_: object) -> None:
        self.idle.set_busy(False)
        self._device.release()


def pad_clips(audio_N: Tensor, num_samples: list[int]) -> Tensor:
    """Turn concatenated clips into float32 audio_BT, zero after each clip."""
    audio_BT = torch.empty(len(num_samples), max(num_samples), device=audio_N.device)
    clips = torch.split(audio_N, num_samples)
    for row_T, clip_T in zip(audio_BT, clips, strict=True):
        row_T[len(clip_T) :] = 0
        row_T[: len(clip_T)] = clip_T
        if clip_T.dtype == torch.int16:  # a row is still in the cache: half the time of x / 32768
            row_T.mul_(1 / 32768)
    return audio_BT


class SplittingCodec:
    """A codec that splits a batch that does not fit into memory; the codes stay the same.

    It remembers the size that did not fit and splits larger batches before it tries them.
    """

    def __init__(self, codec: Codec):
        self.info = codec.info
        self.budget: int | None = None  # padded samples of a batch; None: all have fitted so far
        self._codec = codec

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF.

        Raises `DeviceFull` if a single clip does not fit, and `DeviceBroken`.
        """
        count = len(audio_BT)
        if self.budget is None or audio_BT.numel() <= self.budget or count == 1:
            codes_BKF = unless_full(lambda: self._codec.encode(audio_BT, num_samples_B))
            if codes_BKF is not None:
                return codes_BKF
            if count == 1:
                raise DeviceFull(
                    f"a clip of {audio_BT.shape[1] / self.info.sample_rate:.0f} s does not fit "
                    "into the memory of the device; lower limits.seconds"
                )
            self.budget = audio_BT.numel() // 2
        return self._encode_halves(audio_BT, num_samples_B)

    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        return self._codec.decode(codes_BKF, num_frames_B)

    def _encode_halves(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        middle = len(audio_BT) // 2
        halves = []
        for half in (slice(None, middle), slice(middle, None)):
            samples_B = num_samples_B[half]
            halves.append(self.encode(audio_BT[half, : int(samples_B.max())], samples_B))
        longest = max(codes_BKF.shape[2] for codes_BKF in halves)
        return torch.cat([F.pad(codes, (0, longest - codes.shape[2])) for codes in halves])


def unless_full(compute: Callable[[], Result]) -> Result | None:
    """Return the result, or None if memory ran out; what was allocated is free again."""
    try:
        with broken_device():
            return compute()
    except RuntimeError as error:
        if not is_full(error):
            raise
    # Outside of the handler: the traceback held the tensors of the failed attempt.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
