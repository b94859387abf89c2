"""Encoding that survives a full GPU, and says plainly when a GPU is broken."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DeviceBroken, DeviceFull
from speech_codecs.api import Codec

Result = TypeVar("Result")
# A full CPU allocator raises a plain RuntimeError.
_FULL = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_BROKEN = ("CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED")


class FittingCodec:
    """A codec that splits the batches that do not fit into memory, for which their codes are equal.

    What once did not fit is split beforehand from then on.
    """

    def __init__(self, codec: Codec):
        self.info = codec.info
        self.budget: int | None = None  # padded samples of a batch; None while all of them fitted
        self._codec = codec

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF.

        Raises `DeviceFull` where a clip does not even fit alone, and `DeviceBroken`.
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
    """The result, or None where memory did not suffice; what had been allocated is free again."""
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
    """Raise `DeviceBroken` for what means that no kernel will run in this process any more.

    A GPU may report it late, at whatever is asked of it next.
    """
    try:
        yield
    except RuntimeError as error:
        if _is_full(error) or not any(mark in str(error) for mark in _BROKEN):
            raise
        raise DeviceBroken(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


def _is_full(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(mark in str(error) for mark in _FULL)
