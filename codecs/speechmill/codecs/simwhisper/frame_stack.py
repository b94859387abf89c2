"""Between 50 Hz features and 12.5 Hz latents: stacked frames and a residual convolution stack.

arXiv 2510.20504 names the parts; their order and sizes come from the authors' release.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.codebook_ema import broadcast_from_first
from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.nn.snake import REACH, AliasFreeSnakeBeta

_KERNEL = 7
_DILATIONS = (1, 3, 9)
_SMALLEST_STD = 1e-4

# latents after a latent that it can depend on
TAIL = sum(_KERNEL // 2 * dilation + 2 * REACH for dilation in _DILATIONS)


class FrameStackDown(nn.Module):
    """h_BTD of 50 Hz to latent_BDF, `stack` frames each."""

    def __init__(self, dim: int, stack: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.stack = stack
        self.in_proj = nn.Conv1d(dim * stack, hidden_dim, 1)
        self.units = nn.ModuleList(FrameStackUnit(hidden_dim, d) for d in _DILATIONS)
        self.to_latent = nn.Conv1d(hidden_dim, latent_dim, 1)

    def forward(self, h_BTD: Tensor, num_latents: int, max_latents: int) -> Tensor:
        """Return latent_BDF of `num_latents` columns.

        The authors pad every clip to `max_latents`. Inside the stack this padding is not zero, but
        a latent depends on at most `TAIL` columns of it. With that many columns, no latent depends
        on where the window ends, and no row needs a mask.
        """
        size = min(num_latents + TAIL, max_latents)
        x_BTD = F.pad(h_BTD, (0, 0, 0, max(0, size * self.stack - h_BTD.shape[1])))
        stacked_BFSD = x_BTD[:, : size * self.stack].reshape(len(x_BTD), size, self.stack, -1)
        x_BCF = self.in_proj(stacked_BFSD.permute(0, 3, 2, 1).flatten(1, 2))
        for unit in self.units:
            x_BCF = unit(x_BCF)
        latent_BDF: Tensor = self.to_latent(x_BCF[..., :num_latents])
        return latent_BDF

    @torch.no_grad()
    def standardize(self, latent_BDF: Tensor, share: float = 1.0) -> None:
        """Rescale and shift each latent so that those given would have mean 0 and variance 1.

        A `share` under 1 goes only a part of the way.
        """
        std_D, mean_D = torch.std_mean(latent_BDF.float(), (0, 2))
        broadcast_from_first(std_D, mean_D)
        bias_D, scale_D = self.to_latent.bias, std_D.clamp(min=_SMALLEST_STD) ** share
        assert bias_D is not None
        self.to_latent.weight /= scale_D[:, None, None]
        bias_D.copy_((bias_D - share * mean_D) / scale_D)


class FrameStackUp(nn.Module):
    """latent_BDF to h_BTD of `stack` frames each."""

    def __init__(self, latent_dim: int, hidden_dim: int, stack: int, dim: int) -> None:
        super().__init__()
        self.stack = stack
        self.from_latent = nn.Conv1d(latent_dim, hidden_dim, 1)
        self.units = nn.ModuleList(FrameStackUnit(hidden_dim, d) for d in _DILATIONS)
        self.to_stacked = nn.Conv1d(hidden_dim, dim * stack, 1)

    def forward(self, latent_BDF: Tensor, lengths_B: Tensor | None) -> Tensor:
        x_BCF = self.from_latent(latent_BDF)
        for unit in self.units:
            x_BCF = unit(x_BCF, lengths_B)
        stacked_BCF = self.to_stacked(x_BCF)
        stacked_BDSF = stacked_BCF.view(len(x_BCF), -1, self.stack, x_BCF.shape[-1])
        h_BTD: Tensor = stacked_BDSF.permute(0, 3, 2, 1).flatten(1, 2)
        return h_BTD


class FrameStackUnit(nn.Module):
    """Activation, dilated convolution, activation, 1x1 convolution, added to the input."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        padding = _KERNEL // 2 * dilation
        self.act1 = AliasFreeSnakeBeta(dim)
        self.conv1 = nn.Conv1d(dim, dim, _KERNEL, dilation=dilation, padding=padding)
        self.act2 = AliasFreeSnakeBeta(dim)
        self.conv2 = nn.Conv1d(dim, dim, 1)

    def forward(self, x_BCF: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        y_BCF: Tensor = self.act1(x_BCF, lengths_B)
        if lengths_B is not None:
            y_BCF = mask_padding(y_BCF, lengths_B)
        y_BCF = self.conv2(self.act2(self.conv1(y_BCF), lengths_B))
        return x_BCF + y_BCF
