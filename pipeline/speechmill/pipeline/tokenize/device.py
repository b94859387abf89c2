"""The device of a codec: shared by shards, fed one batch ahead, and never overfilled.

`DeviceLock` lets the shards in flight share the device, `DevicePrefetcher` copies the next batch
while one is encoded, and `SplittingCodec` splits a batch that does not fit into memory.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.api import Codec
from speechmill.pipeline.errors import DeviceBroken, DeviceFull
from speechmill.pipeline.metrics import STARVED_SECONDS, record
from speechmill.pipeline.tokenize.batching import Batch, ShardEnd

Result = TypeVar("Result")
# A full CPU allocator raises a plain RuntimeError.
_FULL = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_BROKEN = ("CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED")


class DeviceLock:
    """Held while the codec computes; measures how long the device was idle for lack of audio."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._device = threading.Lock()
        self._account = threading.Lock()
        self._shards = 0
        self._busy = False
        self._changed = clock()
        self._starved = 0.0

    def __enter__(self) -> "DeviceLock":
        self._device.acquire()
        self._change(busy=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._change(busy=False)
        self._device.release()

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


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """A batch whose audio is in the memory of the codec's device."""

    batch: Batch
    audio_BT: Tensor  # float32, zero after each clip
    copied: torch.cuda.Event | None = None  # the copy to a GPU runs beside other work

    def audio(self) -> Tensor:
        """Return audio_BT for use on the current stream."""
        if self.copied:
            stream = torch.cuda.current_stream(self.audio_BT.device)
            stream.wait_event(self.copied)
            self.audio_BT.record_stream(stream)
        return self.audio_BT


class DevicePrefetcher:
    """Copies batches to one device."""

    def __init__(self, device: str = "cpu"):
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def prefetch(self, batches: Iterable[Batch | ShardEnd]) -> Iterator[DeviceBatch | ShardEnd]:
        """Yield the batches in order; for a GPU, a thread prepares one batch ahead."""
        prepared = (each if isinstance(each, ShardEnd) else self._copy(each) for each in batches)
        return one_ahead(prepared) if self.stream else prepared

    def _copy(self, batch: Batch) -> DeviceBatch:
        num_samples = batch.num_samples_B.tolist()
        audio_N = torch.from_numpy(batch.audio_N)
        if self.stream is None:
            return DeviceBatch(batch, pad_clips(audio_N, num_samples))
        try:
            with torch.cuda.stream(self.stream):
                # 16-bit samples are copied as they are, from memory that the GPU reads itself.
                there_N = audio_N.pin_memory().to(self.device, non_blocking=True)
                audio_BT = pad_clips(there_N, num_samples)
                return DeviceBatch(batch, audio_BT, self.stream.record_event())
        except torch.OutOfMemoryError:
            return DeviceBatch(batch, pad_clips(audio_N, num_samples))


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


def one_ahead(
    items: Iterator[DeviceBatch | ShardEnd],
) -> Iterator[DeviceBatch | ShardEnd]:
    """Yield the items; a thread makes the next one while the caller uses the one before."""
    with ThreadPoolExecutor(1, "prefetch") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


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
            codes_BKF = _unless_full(lambda: self._codec.encode(audio_BT, num_samples_B))
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


def _unless_full(compute: Callable[[], Result]) -> Result | None:
    """Return the result, or None if memory ran out; what was allocated is free again."""
    try:
        with broken_device():
            return compute()
    except RuntimeError as error:
        if not _is_full(error):
            raise
    # Outside of the handler: the traceback held the tensors of the failed attempt.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


@contextmanager
def broken_device() -> Iterator[None]:
    """Raise `DeviceBroken` for errors after which no kernel runs in this process any more.

    A GPU may report such an error late, with whatever operation comes next.
    """
    try:
        yield
    except RuntimeError as error:
        if _is_full(error) or not any(mark in str(error) for mark in _BROKEN):
            raise
        raise DeviceBroken(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


def _is_full(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(mark in str(error) for mark in _FULL)
