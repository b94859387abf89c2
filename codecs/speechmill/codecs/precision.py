"""The number format in which a codec computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from speechmill.codecs.api import PRECISIONS
from speechmill.codecs.errors import UnsupportedPrecision
from speechmill.codecs.nn.kernels import triton_works

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_AMPERE = (8, 0)  # the first NVIDIA generation that computes in tf32 and bf16
_BACKENDS: Any = torch.backends  # its stubs lack these switches
_CUDA = (_BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn)
_CPU = (_BACKENDS.mkldnn.matmul, _BACKENDS.mkldnn.conv, _BACKENDS.mkldnn.rnn)


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `UnsupportedPrecision` unless `device` can compute in `precision`."""
    if precision not in PRECISIONS:
        raise UnsupportedPrecision(f"no precision {precision!r}; valid: {', '.join(PRECISIONS)}")
    if precision == "tf32" and device.type != "cuda":
        raise UnsupportedPrecision(f"tf32 needs a CUDA device, not {device.type!r}; use fp32")
    if precision == "fp16" and device.type == "cpu":
        raise UnsupportedPrecision("fp16 is slow and inexact on a CPU; use fp32 or bf16")
    if precision in ("tf32", "bf16") and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < _AMPERE:
            raise UnsupportedPrecision(
                f"{precision} needs compute capability {_AMPERE}, {device} has {capability}; "
                "use fp32 or fp16"
            )


def cast_weights(precision: str, network: nn.Module) -> None:
    """Round the matrices of `network` to `precision`, permanently, if that has fewer bits.

    Autocast would round frozen weights again in every call. Norms, activations and all modules with
    `is_exact` set, such as the quantizers that decide the codes, stay in float32.
    """
    dtype = AUTOCAST.get(precision)
    if dtype is None or getattr(network, "is_exact", False):
        return
    if isinstance(network, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
        network.to(dtype)
    for child in network.children():
        cast_weights(precision, child)


def kernel_library(precision: str) -> str:
    """Return what computes norms, activations and attention on CUDA: "triton" or "torch"."""
    return "triton" if precision in AUTOCAST and triton_works() else "torch"


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in `precision` inside the block, independent of the process's settings.

    By default PyTorch lets cuDNN use TF32, and `set_float32_matmul_precision` lets a CPU use bf16;
    fp32 here means float32 everywhere.
    """
    before = [switch.fp32_precision for switch in _CUDA + _CPU]
    dtype = AUTOCAST.get(precision)
    try:
        for switch in _CUDA + _CPU:
            switch.fp32_precision = "ieee"
        if precision == "tf32":
            for switch in _CUDA:
                switch.fp32_precision = "tf32"
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            yield
    finally:
        for switch, setting in zip(_CUDA + _CPU, before, strict=True):
            switch.fp32_precision = setting
