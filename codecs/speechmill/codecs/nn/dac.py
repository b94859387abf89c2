"""Encoder and decoder of the Descript Audio Codec (arXiv 2306.06546, section 3.1 and appendix A).

With lengths, each row is computed as it would be alone, because every convolution reads zeros after
the row's end, as it does before its start.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.nn.snake import Snake

_DILATIONS = (1, 3, 9)


class DacEncoder(nn.Module):
    """audio_B1T, zero after each row's end, to x_BDF.

    T and all lengths are multiples of the product of the rates.
    """

    def __init__(self, dim: int, rates: tuple[int, ...], output_dim: int) -> None:
        super().__init__()
        self.first = ZeroPaddedConv1d(1, dim, 7)
        self.stages = nn.ModuleList(DacDownStage(dim << i, rate) for i, rate in enumerate(rates))
        self.snake = Snake(1, dim << len(rates), 1, channels_last=False)
        self.last = ZeroPaddedConv1d(dim << len(rates), output_dim, 3)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        x_BCT = self.first(x_BCT)
        for stage in self.stages:
            x_BCT, lengths_B = stage(x_BCT, lengths_B)
        x_BDF: Tensor = self.last(self.snake(x_BCT, lengths_B))
        return x_BDF


class DacDecoder(nn.Module):
    """x_BDF to audio_B1T in [-1, 1]; an odd rate loses a few columns unless `whole_frames`."""

    def __init__(
        self, input_dim: int, dim: int, rates: tuple[int, ...], *, whole_frames: bool = False
    ) -> None:
        super().__init__()
        self.first = ZeroPaddedConv1d(input_dim, dim, 7)
        self.stages = nn.ModuleList(
            DacUpStage(dim >> i, rate, whole_frames=whole_frames) for i, rate in enumerate(rates)
        )
        self.snake = Snake(1, dim >> len(rates), 1, channels_last=False)
        self.last = ZeroPaddedConv1d(dim >> len(rates), 1, 7)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        x_BCT = self.first(x_BCT if lengths_B is None else mask_padding(x_BCT, lengths_B))
        for stage in self.stages:
            x_BCT, lengths_B = stage(x_BCT, lengths_B)
        audio_B1T: Tensor = self.last(self.snake(x_BCT, lengths_B))
        return torch.tanh(audio_B1T)


class DacDownStage(nn.Module):
    """Three residual units, then a convolution that keeps every `rate`-th column."""

    def __init__(self, width: int, rate: int) -> None:
        super().__init__()
        self.rate = rate
        self.units = nn.ModuleList(DacResidualUnit(width, dilation) for dilation in _DILATIONS)
        self.snake = Snake(1, width, 1, channels_last=False)
        self.down = ZeroPaddedConv1d(width, 2 * width, 2 * rate, stride=rate)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for unit in self.units:
            x_BCT = unit(x_BCT, lengths_B)
        x_BCT = self.down(self.snake(x_BCT, lengths_B))
        return x_BCT, None if lengths_B is None else lengths_B // self.rate


class DacUpStage(nn.Module):
    """A transposed convolution to half the width, then three residual units."""

    def __init__(self, width: int, rate: int, *, whole_frames: bool = False) -> None:
        super().__init__()
        self.rate = rate
        self.missing = 0 if whole_frames else rate % 2  # columns of the last frame
        self.snake = Snake(1, width, 1, channels_last=False)
        up = nn.ConvTranspose1d(
            width,
            width // 2,
            2 * rate,
            stride=rate,
            padding=_half_rounded_up(rate),
            output_padding=rate % 2 - self.missing,
        )
        self.up = weight_norm(up)
        self.units = nn.ModuleList(DacResidualUnit(width // 2, dilation) for dilation in _DILATIONS)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x_BCT = self.up(self.snake(x_BCT, lengths_B))
        lengths_B = None if lengths_B is None else lengths_B * self.rate - self.missing
        for unit in self.units:
            x_BCT = unit(x_BCT, lengths_B)
        return x_BCT, lengths_B


class DacResidualUnit(nn.Module):
    """Snake, dilated convolution, Snake, 1x1 convolution, added to the input."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.snake1 = Snake(1, width, 1, channels_last=False)
        self.conv1 = ZeroPaddedConv1d(width, width, 7, dilation=dilation)
        self.snake2 = Snake(1, width, 1, channels_last=False)
        self.conv2 = ZeroPaddedConv1d(width, width, 1)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> Tensor:
        y_BCT: Tensor = self.conv1(self.snake1(x_BCT, lengths_B))
        y_BCT = self.conv2(self.snake2(y_BCT))
        return x_BCT + y_BCT


class ZeroPaddedConv1d(nn.Module):
    """A weight-normed, zero-padded convolution: T columns, a multiple of stride, become T / stride.

    With stride s the kernel has 2 s columns. Rows must be zero after their ends.
    """

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
        padding = _half_rounded_up(stride) if stride > 1 else dilation * (kernel - 1) // 2
        conv = nn.Conv1d(
            in_channels, out_channels, kernel, stride=stride, dilation=dilation, padding=padding
        )
        self.conv = weight_norm(conv)

    def forward(self, x_BCT: Tensor) -> Tensor:
        y_BCT: Tensor = self.conv(x_BCT)
        return y_BCT


def _half_rounded_up(rate: int) -> int:
    return (rate + 1) // 2
