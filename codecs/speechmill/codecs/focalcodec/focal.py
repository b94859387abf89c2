"""Focal modulation (arXiv 2203.11926, section 3) in one dimension, as FocalCodec uses it."""

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.frame_conv import FrameConv1d, Memory, Padding
from speechmill.codecs.nn.masks import mask_padding_frames
from speechmill.codecs.nn.norm import LayerNorm
from speechmill.codecs.nn.wavlm.encoder import FeedForward


class DynamicTanh(nn.Module):
    """tanh(alpha x) instead of a norm (arXiv 2503.10622), with no scale or shift after it."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x)


class FocalLevel(nn.ModuleList):
    """A depthwise convolution, then a GELU; a list of one, because checkpoints number it."""

    def forward(self, x_BFD: Tensor, lengths_B: Tensor | None, memory: Memory | None) -> Tensor:
        return F.gelu(self[0](x_BFD, lengths_B, memory))


class FocalModulation(nn.Module):
    """Contexts of growing width, gated per frame, modulate a query.

    The widest context is the mean over the row or, if `causal`, a depthwise convolution over the
    last `window_size` frames.
    """

    def __init__(
        self,
        dim: int,
        *,
        window: int,
        levels: int,
        factor: int,
        causal: bool = False,
        window_size: int = 512,
        normalize: bool = False,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.levels = levels
        self.causal = causal
        self.scale = 1 / (levels + 1) if normalize else 1.0
        self.split = (dim, dim, levels + 1)
        self.in_proj = nn.Linear(dim, sum(self.split))
        kernels = [window + factor * level for level in range(levels)]
        padding: Padding = "replicate" if causal else "same"
        self.layers = nn.ModuleList(
            FocalLevel([FrameConv1d(dim, dim, kernel, padding=padding, groups=dim)])
            for kernel in (*kernels, *([window_size] if causal else []))
        )
        self.context_proj = FrameConv1d(dim, dim, 1, padding="valid")
        self.norm = norm
        self.out_proj = nn.Linear(dim, dim)

    def pad_in_proj(self) -> None:
        """Add outputs that are not used, for inference: tensor cores take 8 columns at a time."""
        linear = self.in_proj
        missing = -linear.out_features % 8
        linear.weight = nn.Parameter(F.pad(linear.weight, (0, 0, 0, missing)), requires_grad=False)
        linear.bias = nn.Parameter(F.pad(linear.bias, (0, missing)), requires_grad=False)
        linear.out_features += missing
        self.split = (*self.split[:2], self.split[2] + missing)

    def forward(
        self, x_BFD: Tensor, lengths_B: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        query_BFD, context_BFD, gates_BFL = self.in_proj(x_BFD).split(self.split, dim=-1)
        gates = gates_BFL.split(1, dim=-1)
        gated = []
        for layer, gate_BF1 in zip(self.layers, gates, strict=False):
            context_BFD = layer(context_BFD, lengths_B, memory)
            gated.append(context_BFD * gate_BF1)
        if not self.causal:
            mean_B1D = F.gelu(_mean_frame(context_BFD, lengths_B))
            gated.append(mean_B1D * gates[self.levels])
        total_BFD = reduce(torch.add, gated)
        if self.scale != 1:
            total_BFD = total_BFD * self.scale
        y_BFD: Tensor = query_BFD * self.context_proj(total_BFD)
        if self.norm is not None:
            y_BFD = self.norm(y_BFD)
        output_BFD: Tensor = self.out_proj(y_BFD)
        return output_BFD


class FocalBlock(nn.Module):
    """Focal modulation, then a perceptron, each normed and added to its input."""

    def __init__(
        self,
        dim: int,
        *,
        window: int,
        levels: int,
        factor: int,
        causal: bool = False,
        window_size: int = 512,
        normalize: bool = False,
        post_norm: bool = False,
        layer_scale: bool = False,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.modulation_norm = _norm(dim, causal)
        self.modulation = FocalModulation(
            dim,
            window=window,
            levels=levels,
            factor=factor,
            causal=causal,
            window_size=window_size,
            normalize=normalize,
            norm=_norm(dim, causal) if post_norm else None,
        )
        self.feed_forward_norm = _norm(dim, causal)
        self.feed_forward = FeedForward(dim, 4 * dim)
        self.modulation_gamma = nn.Parameter(torch.ones(dim)) if layer_scale else None
        self.feed_forward_gamma = nn.Parameter(torch.ones(dim)) if layer_scale else None

    def forward(
        self, x_BFD: Tensor, lengths_B: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        if self.post_norm:
            y_BFD = self.modulation_norm(self.modulation(x_BFD, lengths_B, memory))
            x_BFD = x_BFD + _scaled(y_BFD, self.modulation_gamma)
            y_BFD = self.feed_forward_norm(self.feed_forward(x_BFD))
        else:
            y_BFD = self.modulation(self.modulation_norm(x_BFD), lengths_B, memory)
            x_BFD = x_BFD + _scaled(y_BFD, self.modulation_gamma)
            y_BFD = self.feed_forward(self.feed_forward_norm(x_BFD))
        return x_BFD + _scaled(y_BFD, self.feed_forward_gamma)


def prepare_for_cuda(network: nn.Module) -> None:
    """Give the matrices inside `network` the widths that tensor cores take; for inference."""
    for module in network.modules():
        if isinstance(module, FocalModulation):
            module.pad_in_proj()


def _norm(dim: int, causal: bool) -> nn.Module:
    return DynamicTanh() if causal else LayerNorm(dim)


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x


def _mean_frame(x_BFD: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return mean_B1D over each row's own frames."""
    if lengths_B is None:
        return x_BFD.mean(1, keepdim=True)
    sum_B1D = mask_padding_frames(x_BFD, lengths_B).sum(1, keepdim=True)
    return sum_B1D / lengths_B[:, None, None]
