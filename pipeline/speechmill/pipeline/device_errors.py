"""The errors of a GPU by their cure: split the batch, or restart the process.

PyTorch raises most of them as a plain `RuntimeError`, so the message decides.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from speechmill.pipeline.errors import DeviceBroken

_FULL = (
    "out of memory",  # of the allocator of PyTorch, of CUDA, of Triton's driver
    "can't allocate memory",  # of the CPU's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN: no engine's workspace fits
)
_BROKEN = (
    "CUDA error",
    "CUDA driver error",
    "Triton Error [CUDA]",
    "illegal memory access",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUFFT_EXEC_FAILED",
    "CUFFT_INTERNAL_ERROR",
    "NCCL error",
)
_CUDA = torch.device("cuda")

logger = logging.getLogger(__name__)


def is_full(error: BaseException) -> bool:
    """Whether memory ran out, so that a smaller batch may succeed."""
    return isinstance(error, torch.OutOfMemoryError) or _names(error, _FULL)


def is_broken(error: BaseException) -> bool:
    """Whether the device may no longer work in this process; `device_works` finds out."""
    return isinstance(error, RuntimeError) and not is_full(error) and _names(error, _BROKEN)


def device_works(device: torch.device = _CUDA) -> bool:
    """Whether a kernel still runs on a GPU; waits for all that was started before.

    A full device works: memory is another matter.
    """
    try:
        torch.ones(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except (RuntimeError, AssertionError) as error:  # the latter by a PyTorch without CUDA
        return is_full(error)
    return True


@contextmanager
def broken_device(device: torch.device = _CUDA) -> Iterator[None]:
    """Raise `DeviceBroken` for errors after which no kernel runs in this process any more.

    A GPU may report such an error late, with whatever operation comes next. An error that it
    survives, such as a refused launch, is raised as it is.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_broken(error):
            raise
        if device_works(device):
            logger.warning("the device still works after %s: %s", type(error).__name__, error)
            raise
        raise DeviceBroken(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


def _names(error: BaseException, marks: tuple[str, ...]) -> bool:
    return any(mark in str(error) for mark in marks)
