"""A long grouped convolution and a GELU, as a sum of one matrix product per tap.

cuDNN has no fast kernel for groups of 64 channels and 128 taps.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechmill.codecs.nn.kernels.device import device_of

_COLUMNS = 128  # output columns of a tile


@triton.jit  # type: ignore[untyped-decorator]
def _grouped_conv(
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    y_ptr: tl.tensor,
    size: tl.tensor,
    columns: tl.tensor,
    taps: tl.tensor,
    channels: tl.tensor,
    width: tl.tensor,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    group, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    column_T = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    channel_I = tl.arange(0, WIDTH)
    is_channel_I = channel_I < width
    x_ptr += batch * size * channels + group * width
    weight_ptr += group * width
    is_weight_IO = is_channel_I[:, None] & is_channel_I[None, :]
    sum_TO = tl.zeros([COLUMNS, WIDTH], tl.float32)
    for tap in range(taps):
        row_T = column_T + tap
        inside_TI = (row_T < size)[:, None] & is_channel_I[None, :]
        place_TI = row_T[:, None] * channels + channel_I[None, :]
        x_TI = tl.load(x_ptr + place_TI, mask=inside_TI, other=0.0)
        place_IO = (tap * width + channel_I[:, None]) * channels + channel_I[None, :]
        weight_IO = tl.load(weight_ptr + place_IO, mask=is_weight_IO, other=0.0)
        sum_TO = tl.dot(x_TI, weight_IO, sum_TO)
    bias_ptr += group * width
    sum_TO += tl.load(bias_ptr + channel_I, mask=is_channel_I, other=0.0).to(tl.float32)[None, :]
    y_TO = 0.5 * sum_TO * (1.0 + tl.erf(sum_TO * 0.7071067811865476))
    y_ptr += batch * columns * channels + group * width
    place_TO = column_T[:, None] * channels + channel_I[None, :]
    inside_TO = (column_T < columns)[:, None] & is_channel_I[None, :]
    tl.store(y_ptr + place_TO, y_TO.to(y_ptr.dtype.element_ty), mask=inside_TO)


@torch.library.custom_op("speechmill::grouped_conv_gelu", mutates_args=())
def grouped_conv_gelu(x_BTC: Tensor, weight_OIK: Tensor, bias_C: Tensor) -> Tensor:
    """Return y_BTC of K - 1 columns less, in the type of x_BTC, which is that of the weight.

    C = O, and a group has I channels of input and of output.
    """
    batch, size, channels = x_BTC.shape
    _, width, taps = weight_OIK.shape
    columns = size - taps + 1
    y_BTC = x_BTC.new_empty(batch, columns, channels)
    weight_KIO = weight_OIK.permute(2, 1, 0).contiguous()
    with device_of(x_BTC):
        _grouped_conv[(triton.cdiv(columns, _COLUMNS), channels // width, batch)](
            x_BTC.contiguous(),
            weight_KIO,
            bias_C,
            y_BTC,
            size,
            columns,
            taps,
            channels,
            width,
            _COLUMNS,
            max(16, triton.next_power_of_2(width)),  # tensor cores take no less than 16
            num_warps=4,
            num_stages=4,
        )
    return y_BTC


@grouped_conv_gelu.register_fake
def _fake(x_BTC: Tensor, weight_OIK: Tensor, bias_C: Tensor) -> Tensor:
    batch, size, channels = x_BTC.shape
    return x_BTC.new_empty(batch, size - weight_OIK.shape[2] + 1, channels)
