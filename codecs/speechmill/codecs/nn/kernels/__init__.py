"""Kernels in Triton for CUDA below float32, which have no gradient; `fused_dtype` says when.

Each is an operation of torch.library with a form for fake tensors, so that compiled code and
counters see one kernel. Only the modules here import Triton, and only if a kernel is used.
"""

import os
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor

_works: bool | None = None  # not known yet


def fused_dtype(x: Tensor) -> torch.dtype | None:
    """Return the type in which our kernels compute for `x`, None where PyTorch's compute."""
    if x.device.type != "cuda" or torch.is_grad_enabled() or not torch.is_autocast_enabled("cuda"):
        return None
    return torch.get_autocast_dtype("cuda") if triton_works() else None


def triton_works() -> bool:
    """Return whether Triton can build and run our kernels; without a C compiler it cannot.

    `SPEECHMILL_TRITON=0` in the environment says no. Ask before anything is compiled or captured as
    a CUDA graph: the first answer runs some.
    """
    global _works  # compiled code can read it, but not a function's cache
    if _works is None:
        _works = os.environ.get("SPEECHMILL_TRITON") != "0" and _run_kernels()
    return _works


def _run_kernels() -> bool:
    if find_spec("triton") is None:
        return False
    from speechmill.codecs.nn.kernels.distance_attention import distance_attention
    from speechmill.codecs.nn.kernels.grouped_conv import grouped_conv_gelu
    from speechmill.codecs.nn.kernels.layer_norm import layer_norm

    x_BTC = torch.ones(1, 64, 64, dtype=torch.float16, device="cuda")
    try:
        layer_norm(x_BTC, x_BTC[0, 0], x_BTC[0, 0], 1e-5, torch.float16, False)
        grouped_conv_gelu(x_BTC, x_BTC[0, :, :, None], x_BTC[0, 0])
        distance_attention(x_BTC, x_BTC, x_BTC, x_BTC[:, :, None, :9], 4, None)
        torch.cuda.synchronize()
    except Exception as error:  # Triton raises many types: of its own, of the compiler, of CUDA
        warnings.warn(
            f"Triton cannot run kernels here, so PyTorch's slower ones are used: {error}",
            stacklevel=2,
        )
        return False
    return True
