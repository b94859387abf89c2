"""The Snake activation in one pass over any type, with zeros or a reflection at each row's end."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechmill.codecs.nn.kernels.device import device_of

_LARGEST_BLOCK = 2048  # columns that a program computes


@triton.jit  # type: ignore[untyped-decorator]
def _snake(
    x_ptr: tl.tensor,
    alpha_ptr: tl.tensor,
    beta_ptr: tl.tensor,
    lengths_ptr: tl.tensor,
    y_ptr: tl.tensor,
    channels: tl.tensor,
    size: tl.tensor,
    out_size: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    stride: tl.tensor,
    eps: tl.tensor,
    HAS_ALPHA: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    REFLECTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column_T = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    written_T = column_T < out_size
    source_T = column_T
    read_T = written_T
    if HAS_LENGTHS:
        length = tl.load(lengths_ptr + row // channels).to(tl.int32)
        if REFLECTS:  # as `nn.conv` explains for PyTorch's operations
            missing = (stride - length % stride) % stride
            mirror = tl.maximum(length - 1, tl.maximum(right + missing, left))
            source_T = tl.abs(column_T - left)
            source_T = tl.where(source_T > mirror, 2 * mirror - source_T, source_T)
        read_T = written_T & (source_T >= 0) & (source_T < length)
    x_T = tl.load(x_ptr + row * size + source_T, mask=read_T, other=0.0).to(tl.float32)
    if HAS_ALPHA:
        if BY_COLUMN:
            alpha = tl.load(alpha_ptr + column_T, mask=written_T, other=1.0).to(tl.float32)
            beta = tl.load(beta_ptr + column_T, mask=written_T, other=1.0).to(tl.float32)
        else:
            alpha = tl.load(alpha_ptr + row % channels).to(tl.float32)
            beta = tl.load(beta_ptr + row % channels).to(tl.float32)
        sine_T = tl.sin(alpha * x_T)
        y_T = x_T + sine_T * (sine_T / (beta + eps))
    else:
        sine_T = tl.sin(x_T)
        y_T = x_T + sine_T * sine_T
    tl.store(y_ptr + row * out_size + column_T, y_T.to(y_ptr.dtype.element_ty), mask=written_T)


@torch.library.custom_op("speechmill::snake", mutates_args=())
def fused_snake(
    x: Tensor,
    alpha_beta: Sequence[Tensor],
    eps: float,
    lengths_B: Tensor | None,
    channels_last: bool,
) -> Tensor:
    """Return x + sin^2(alpha x) / (beta + eps) in the type of `x`.

    `alpha_beta` are two tensors of one element per channel, or none: 1 everywhere, without `eps`.
    x_BCT is zero after `lengths_B`, if they are given.
    """
    x = x.contiguous()
    y = torch.empty_like(x)
    _launch(x, alpha_beta, lengths_B, y, (0, 0, 1), eps, channels_last, False)
    return y


@torch.library.custom_op("speechmill::reflected_snake", mutates_args=())
def reflected_snake(x_BCT: Tensor, left: int, right: int, stride: int, lengths_B: Tensor) -> Tensor:
    """Return the Snake (alpha = 1) of x_BCT, padded as `nn.conv.PaddedConv1d` needs it."""
    x_BCT = x_BCT.contiguous()
    y_BCT = x_BCT.new_empty(_padded_shape(x_BCT, left, right, stride))
    _launch(x_BCT, (), lengths_B, y_BCT, (left, right, stride), 0.0, False, True)
    return y_BCT


def _launch(
    x: Tensor,
    alpha_beta: Sequence[Tensor],
    lengths_B: Tensor | None,
    y: Tensor,
    padding: tuple[int, int, int],
    eps: float,
    channels_last: bool,
    reflects: bool,
) -> None:
    size, out_size = x.shape[-1], y.shape[-1]
    block = min(_LARGEST_BLOCK, triton.next_power_of_2(out_size))
    with device_of(x):
        _snake[(x.numel() // size, triton.cdiv(out_size, block))](
            x,
            *(alpha_beta or (x, x)),
            x if lengths_B is None else lengths_B,
            y,
            x.shape[1],
            size,
            out_size,
            *padding,
            eps,
            len(alpha_beta) > 0,
            channels_last,
            lengths_B is not None,
            reflects,
            block,
        )


def _padded_shape(x_BCT: Tensor, left: int, right: int, stride: int) -> tuple[int, ...]:
    return (*x_BCT.shape[:-1], left + x_BCT.shape[-1] + right + stride - 1)


@fused_snake.register_fake
def _fake(x: Tensor, *_: object) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@reflected_snake.register_fake
def _fake_reflected(x_BCT: Tensor, left: int, right: int, stride: int, lengths_B: Tensor) -> Tensor:
    return x_BCT.new_empty(_padded_shape(x_BCT, left, right, stride))
