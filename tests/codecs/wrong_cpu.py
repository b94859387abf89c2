"""CPUs with AMX, on which PyTorch 2.14 computes some bf16 convolutions wrongly."""

from functools import cache

import torch
from torch import nn

# The shapes that were seen to be wrong, by an error as large as the output.
_LAYERS = (
    lambda: nn.Conv1d(16, 16, 8, stride=4),
    lambda: nn.Conv1d(64, 64, 128, groups=16),
)


@cache
def computes_bf16_wrongly() -> bool:
    """Compare those convolutions in bf16 with float32; rounding alone gives an error of 0.01."""
    return any(_error(make()) > 0.3 for make in _LAYERS)


@torch.no_grad()
def _error(layer: nn.Conv1d) -> float:
    x_BCT = torch.randn(1, layer.in_channels, 4_000, generator=torch.Generator().manual_seed(0))
    exact_BCT = layer(x_BCT)
    with torch.autocast("cpu", torch.bfloat16):
        rough_BCT = layer(x_BCT).float()
    return float((rough_BCT - exact_BCT).norm() / exact_BCT.norm())
