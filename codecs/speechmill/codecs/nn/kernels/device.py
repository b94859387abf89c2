"""The GPU on which a kernel runs."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def device_of(x: Tensor) -> AbstractContextManager[None]:
    """Make the GPU of `x` the current one, on which Triton launches kernels."""
    guard: AbstractContextManager[None] = torch.cuda.device_of(x)  # type: ignore[no-untyped-call]
    return guard
