"""SEANet convolutions (EnCodec, arXiv 2210.13438, section 3.1) over rows of different length.

With `lengths_B` a layer computes each row as if it were alone: it replaces the few columns at a
row's end that reflected padding would change.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.nn.snake import has_kernel, snake


class PaddedConv1d(nn.Module):
    """A weight-normed convolution, reflect-padded so that T columns become ceil(T / stride)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(in_channels, out_channels, kernel, stride=stride, dilation=dilation)
        self.conv = weight_norm(conv)
        self.stride = stride
        total = (kernel - 1) * dilation + 1 - stride
        self.right = total // 2
        self.left = total - self.right

    def forward(
        self, x_BCT: Tensor, lengths_B: Tensor | None = None, *, activate: bool = False
    ) -> Tensor:
        """Return y_BCT of ceil(T / stride) columns, of the Snake of x_BCT if `activate`."""
        padding = self.left, self.right, self.stride
        if activate and lengths_B is not None and has_kernel(x_BCT):
            from speechmill.codecs.nn.kernels.snake import reflected_snake

            padded_BCT: Tensor = reflected_snake(x_BCT, *padding, lengths_B)
        else:
            x_BCT = snake(x_BCT) if activate else x_BCT
            if lengths_B is None:
                padded_BCT = _pad_full(x_BCT, *padding)
            else:
                padded_BCT = _pad_rows(x_BCT, *padding, lengths_B)
        y_BCT: Tensor = self.conv(padded_BCT)
        return y_BCT


class TrimmedConvTranspose1d(nn.Module):
    """A weight-normed transposed convolution of kernel 2 x stride: T columns become T x stride."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        conv = nn.ConvTranspose1d(in_channels, out_channels, 2 * stride, stride=stride)
        self.conv = weight_norm(conv)
        self.stride = stride
        self.right = stride // 2
        self.left = stride - self.right

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return y_BCT of T x stride columns."""
        if lengths_B is not None:
            x_BCT = mask_padding(x_BCT, lengths_B)
        y_BCT: Tensor = self.conv(x_BCT)
        return y_BCT[..., self.left : y_BCT.shape[-1] - self.right]


def _pad_full(x_BCT: Tensor, left: int, right: int, stride: int) -> Tensor:
    """Pad full rows by reflection; zeros first lengthen a clip that is shorter than its padding."""
    length = x_BCT.shape[-1]
    right += -length % stride
    if left == right == 0:
        return x_BCT
    missing = max(0, max(left, right) + 1 - length)
    padded_BCT = F.pad(F.pad(x_BCT, (0, missing)), (left, right), mode="reflect")
    return padded_BCT[..., : left + length + right]


def _pad_rows(x_BCT: Tensor, left: int, right: int, stride: int, lengths_B: Tensor) -> Tensor:
    """Pad each row as `_pad_full` does: `left` columns before it, the rest after its end."""
    if left == right == 0 and stride == 1:
        return x_BCT
    channels, size = x_BCT.shape[1:]
    column_BP, source_BP, outside_BP = _reflection(left, right, stride, lengths_B)
    index_BCP = source_BP.clamp(0, size - 1)[:, None].expand(-1, channels, -1)
    patch_BCP = x_BCT.gather(2, index_BCP).masked_fill(outside_BP[:, None], 0)
    padded_BCT = F.pad(x_BCT, (left, right + stride - 1))
    return padded_BCT.scatter_(2, column_BP[:, None].expand(-1, channels, -1), patch_BCP)


def _reflection(
    left: int, right: int, stride: int, lengths_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the padded columns to replace, the columns to read, and which of those are zero."""
    length_B1 = lengths_B[:, None]
    before_P = torch.arange(-left, 0, device=lengths_B.device)
    after_P = torch.arange(right + stride - 1, device=lengths_B.device)
    column_BP = torch.cat([before_P.expand(len(lengths_B), -1), length_B1 + after_P], dim=1)
    longest_B1 = (right + -length_B1 % stride).clamp(min=left)
    # the last column, after zeros have lengthened a short clip
    mirror_B1 = torch.maximum(length_B1 - 1, longest_B1)
    source_BP = column_BP.abs()
    source_BP = torch.where(source_BP > mirror_B1, 2 * mirror_B1 - source_BP, source_BP)
    return column_BP + left, source_BP, source_BP >= length_B1
