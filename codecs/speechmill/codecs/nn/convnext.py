"""The ConvNeXt backbone of Vocos (arXiv 2306.00814, section 3.2), same-padded or causal."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.frame_conv import FrameConv1d, Memory, Padding
from speechmill.codecs.nn.norm import LayerNorm

_EPS = 1e-6


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, then a layer-normed two-layer perceptron, added to the input.

    `gamma` scales the perceptron's output per channel; without `layer_scale` there is none.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        kernel: int = 7,
        *,
        padding: Padding = "same",
        layer_scale: bool = True,
        eps: float = _EPS,
    ) -> None:
        super().__init__()
        self.dwconv = FrameConv1d(dim, dim, kernel, padding=padding, groups=dim)
        self.norm = LayerNorm(dim, eps=eps)
        self.pwconv1 = nn.Linear(dim, ffn_dim)
        self.pwconv2 = nn.Linear(ffn_dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim)) if layer_scale else None

    def forward(
        self, x_BFD: Tensor, lengths_B: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        y_BFD: Tensor = self.norm(self.dwconv(x_BFD, lengths_B, memory))
        y_BFD = self.pwconv2(F.gelu(self.pwconv1(y_BFD)))
        return x_BFD + (y_BFD if self.gamma is None else self.gamma * y_BFD)


class ConvNeXtBackbone(nn.Module):
    """An embedding convolution, a norm, blocks, a norm: x_BFC of any width to y_BFD."""

    def __init__(
        self,
        input_dim: int,
        dim: int,
        ffn_dim: int,
        num_layers: int,
        kernel: int = 7,
        *,
        padding: Padding = "same",
        eps: float = _EPS,
    ) -> None:
        super().__init__()
        self.embedding = FrameConv1d(input_dim, dim, kernel, padding=padding)
        self.input_norm = nn.LayerNorm(dim, eps=eps)
        self.layers = nn.ModuleList(
            ConvNeXtBlock(dim, ffn_dim, kernel, padding=padding, eps=eps) for _ in range(num_layers)
        )
        self.output_norm = LayerNorm(dim, eps=eps)

    def forward(
        self, x_BFC: Tensor, lengths_B: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Return y_BFD."""
        y_BFD: Tensor = self.input_norm(self.embedding(x_BFC, lengths_B, memory))
        for layer in self.layers:
            y_BFD = layer(y_BFD, lengths_B, memory)
        output_BFD: Tensor = self.output_norm(y_BFD)
        return output_BFD
