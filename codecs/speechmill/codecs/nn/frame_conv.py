"""Convolutions that keep channels last, over rows of different length or over chunks of a stream.

On a CPU a depthwise convolution of channels-last frames is 3 times (kernel 7) to 15 times (kernel
512) as fast as `nn.Conv1d`, and the linear layers around it need no transposed copies.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.cpu_kernels import FFTConv1d, PackedLinear, pack_linears
from speechmill.codecs.nn.masks import mask_padding_frames

_BLOCK = 8192  # windows multiplied at a time
_LONG = 32  # number of taps, and of frames, from which an FFT is faster
Padding = Literal["valid", "same", "zeros", "replicate"]
Memory = dict[nn.Module, Tensor]  # of a stream: each layer's state between two chunks


class FrameConv1d(nn.Conv1d):
    """A convolution over x_BTC whose weights are those of `nn.Conv1d`.

    Padding is with zeros on both sides ("same"; an even kernel pads one column more on the right),
    causal with zeros or with the first column ("zeros", "replicate"), or none ("valid").
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        padding: Padding,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=bias)
        self.edges = padding
        self.reach = kernel - 1
        self.matrix: PackedLinear | None = None
        self.fft_conv: FFTConv1d | None = None

    def forward(
        self, x_BTC: Tensor, lengths_B: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Return y_BTC; with `memory` (causal only), x_BTC continues the previous call's."""
        both = 0
        if self.edges == "same":
            x_BTC, both = self._between_zeros(x_BTC, lengths_B)
        else:
            x_BTC = self.with_past(x_BTC, memory)
        if self.matrix is not None:
            if both:
                x_BTC = F.pad(x_BTC, (0, 0, both, both))
            return self._multiply(x_BTC, self.matrix)
        if self.fft_conv is not None and x_BTC.shape[1] - self.reach >= _LONG:
            y_BTC = self.fft_conv.convolve(F.pad(x_BTC, (0, 0, both, both)))
            return y_BTC if self.bias is None else y_BTC + self.bias
        if x_BTC.is_cuda and self.kernel_size == self.stride == (1,) and self.groups == 1:
            return F.linear(x_BTC, self.weight[..., 0], self.bias)  # faster than cuDNN
        x_BC1T, weight_OI1K = x_BTC.transpose(1, 2)[:, :, None], self.weight[:, :, None]
        y_BO1T = F.conv2d(
            x_BC1T, weight_OI1K, self.bias, (1, *self.stride), (0, both), groups=self.groups
        )
        return y_BO1T[:, :, 0].transpose(1, 2)

    def pack(self) -> None:
        """Replace the weights of a dense convolution by a packed matrix.

        Each output column is then a row times a matrix: in contiguous frames, every window is a row
        already. A grouped convolution of a long kernel gets an `FFTConv1d`.
        """
        if self.matrix is not None:
            return
        if self.groups > 1:
            if self.groups < self.in_channels and self.reach >= _LONG and self.stride == (1,):
                self.fft_conv = FFTConv1d(self.weight, self.groups)
            return
        weight_OKI = self.weight.detach().transpose(1, 2)
        linear = nn.Linear(weight_OKI[0].numel(), len(weight_OKI), device="meta")
        linear.weight = nn.Parameter(weight_OKI.flatten(1), requires_grad=False)
        linear.bias = self.bias  # type: ignore[assignment]
        self.matrix = PackedLinear(linear)
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def _multiply(self, x_BTC: Tensor, matrix: PackedLinear) -> Tensor:
        if self.reach == 0 and self.stride[0] == 1:
            y_BTC: Tensor = matrix(x_BTC)
            return y_BTC
        x_BTC = x_BTC.contiguous()
        batch, size, width = x_BTC.shape
        columns, step = (size - self.reach - 1) // self.stride[0] + 1, self.stride[0] * width
        windows_BTN = x_BTC.as_strided(
            (batch, columns, (self.reach + 1) * width), (size * width, step, 1)
        )
        parts = [matrix(part_BTN) for part_BTN in torch.split(windows_BTN, _BLOCK, dim=1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _between_zeros(self, x_BTC: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, int]:
        """Return x_BTC, zero after each row's end, and how many zeros to add on both sides."""
        if lengths_B is not None and self.reach:
            x_BTC = mask_padding_frames(x_BTC, lengths_B)
        left = self.reach // 2
        return F.pad(x_BTC, (0, 0, 0, 1)) if self.reach % 2 else x_BTC, left

    def with_past(self, x_BTC: Tensor, memory: Memory | None) -> Tensor:
        """Return x_BTC after the columns before it, which a causal convolution starts with."""
        if self.reach == 0 or self.edges in ("valid", "same"):
            return x_BTC
        if memory is not None and self in memory:
            past_BTC = memory[self]
        elif self.edges == "replicate":
            past_BTC = x_BTC[:, :1].expand(-1, self.reach, -1)
        else:
            past_BTC = x_BTC.new_zeros(()).expand(len(x_BTC), self.reach, x_BTC.shape[-1])
        x_BTC = torch.cat([past_BTC, x_BTC], dim=1)
        if memory is not None:
            memory[self] = x_BTC[:, -self.reach :]
        return x_BTC


def pack_matrices(network: nn.Module) -> None:
    """Pack the matrices inside `network` for float32 on a CPU; its weights are lost.

    oneDNN's packed matrices are 1.2 times as fast on long clips, and more on short ones.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if isinstance(module, FrameConv1d):
            module.pack()
    pack_linears(network)
