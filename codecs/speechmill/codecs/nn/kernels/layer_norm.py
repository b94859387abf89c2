"""Layer normalisation that reads and writes any type and can end with a GELU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechmill.codecs.nn.kernels.device import device_of

_TILE = 2048  # elements that a program holds


@triton.jit  # type: ignore[untyped-decorator]
def _layer_norm(
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    y_ptr: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    GELU: tl.constexpr,
) -> None:
    row_R = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column_D = tl.arange(0, BLOCK)
    place_RD = row_R[:, None] * width + column_D[None, :]
    inside_RD = (row_R < rows)[:, None] & (column_D < width)[None, :]
    x_RD = tl.load(x_ptr + place_RD, mask=inside_RD, other=0.0).to(tl.float32)
    off_RD = tl.where(inside_RD, x_RD - (tl.sum(x_RD, 1) / width)[:, None], 0.0)
    scale_R = tl.rsqrt(tl.sum(off_RD * off_RD, 1) / width + eps)
    weight_D = tl.load(weight_ptr + column_D, mask=column_D < width, other=0.0).to(tl.float32)
    bias_D = tl.load(bias_ptr + column_D, mask=column_D < width, other=0.0).to(tl.float32)
    y_RD = off_RD * scale_R[:, None] * weight_D[None, :] + bias_D[None, :]
    if GELU:
        y_RD = 0.5 * y_RD * (1.0 + tl.erf(y_RD * 0.7071067811865476))
    tl.store(y_ptr + place_RD, y_RD.to(y_ptr.dtype.element_ty), mask=inside_RD)


@torch.library.custom_op("speechmill::layer_norm", mutates_args=())
def layer_norm(
    x: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float, dtype: torch.dtype, gelu: bool
) -> Tensor:
    """Return the normed rows of `x` in `dtype`; statistics are those of float32."""
    x = x.contiguous()
    y = torch.empty_like(x, dtype=dtype)
    width = x.shape[-1]
    rows, block = x.numel() // width, triton.next_power_of_2(width)
    per_program = max(1, _TILE // block)
    with device_of(x):
        _layer_norm[(triton.cdiv(rows, per_program),)](
            x, weight_D, bias_D, y, rows, width, eps, per_program, block, gelu
        )
    return y


@layer_norm.register_fake
def _fake(
    x: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float, dtype: torch.dtype, gelu: bool
) -> Tensor:
    return torch.empty(x.shape, dtype=dtype, device=x.device)
