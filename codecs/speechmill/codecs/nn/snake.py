"""The Snake activation (arXiv 2006.08195), plain and alias-free."""

from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.kernels import fused_dtype
from speechmill.codecs.nn.masks import mask_padding, repeat_last

_EPS = 1e-9
_TAPS = 12
_CUTOFF = 0.25  # half the original band, in cycles per sample at twice the rate
_HALF_WIDTH = 0.3  # of the transition, in the same unit

REACH = 5  # input columns on each side that an output column depends on


def snake(x: Tensor) -> Tensor:
    """Return x + sin^2(x): Snake (arXiv 2006.08195, eq. 3) with the constant alpha = 1.

    ESPnet's codecs use this; Descript's DAC learns one alpha per channel.
    """
    if has_kernel(x):
        from speechmill.codecs.nn.kernels.snake import fused_snake

        y: Tensor = fused_snake(x, (), 0.0, None, False)
        return y
    sine = torch.sin(x)
    return torch.addcmul(x, sine, sine)


def has_kernel(x: Tensor) -> bool:
    """Return whether our kernel, which has no gradient, computes the Snake of `x`."""
    return fused_dtype(x) is not None


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha with a learned alpha per channel (arXiv 2006.08195, eq. 3).

    `alpha_shape` is the shape in the checkpoint, with one element per channel. Channels are the
    last dimension of the input, or with `channels_last=False` the second of (B, C, T).
    """

    def __init__(self, *alpha_shape: int, channels_last: bool = True) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(alpha_shape))
        self.channels_last = channels_last

    def forward(self, x: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the activation; with lengths, which need x_BCT, zero after each row's end."""
        if has_kernel(x):
            from speechmill.codecs.nn.kernels.snake import fused_snake

            both = (self.alpha, self.alpha)
            y: Tensor = fused_snake(x, both, _EPS, lengths_B, self.channels_last)
            return y
        alpha = self.alpha.view((-1,) if self.channels_last else (-1, 1))
        sine = torch.sin(alpha * x)
        y = torch.addcmul(x, sine, sine / (alpha + _EPS))
        return y if lengths_B is None else mask_padding(y, lengths_B)


class AliasFreeSnakeBeta(nn.Module):
    """x + sin^2(a x) / b, with one a and b per channel, computed at twice the sampling rate.

    There its harmonics do not alias. BigVGAN's anti-aliased activation (arXiv 2206.04658) upsamples
    by two, applies the periodic function and downsamples by two, both with one Kaiser-windowed sinc
    as the low-pass (StyleGAN3, arXiv 2106.12423). a and b are stored as logarithms.

    At both rates a row is padded with copies of its first and its last column.
    """

    taps_2K: Tensor
    taps_K: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.zeros(channels))
        self.log_beta = nn.Parameter(torch.zeros(channels))
        taps_K = kaiser_sinc(_TAPS, _CUTOFF, _HALF_WIDTH)
        self.register_buffer("taps_K", taps_K[None, None], persistent=False)
        phases_2K = 2 * torch.stack([taps_K[1::2].flip(0), taps_K[0::2].flip(0)])
        self.register_buffer("taps_2K", phases_2K[:, None], persistent=False)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return y_BCT."""
        batch, channels, size = x_BCT.shape
        if lengths_B is not None:
            x_BCT = repeat_last(x_BCT, lengths_B)
        y_BCT = self._snake(self._upsample(x_BCT.reshape(-1, 1, size)).view(batch, channels, -1))
        if lengths_B is not None:
            y_BCT = repeat_last(y_BCT, 2 * lengths_B)
        return self._downsample(y_BCT.view(-1, 1, 2 * size)).view(batch, channels, size)

    def _upsample(self, x_N1T: Tensor) -> Tensor:
        """Return x_N1T of twice the columns, as two interleaved filters of half the taps each."""
        padded_N1T = F.pad(x_N1T, (_TAPS // 4, _TAPS // 4), mode="replicate")
        phases_N2T = F.conv1d(padded_N1T, self.taps_2K)
        size = x_N1T.shape[-1]
        even_N1T, odd_N1T = phases_N2T[:, :1, :size], phases_N2T[:, 1:, 1:]
        return torch.stack([even_N1T, odd_N1T], -1).flatten(-2)

    def _snake(self, x_BCT: Tensor) -> Tensor:
        alpha_C1, beta_C1 = self.log_alpha.exp()[:, None], self.log_beta.exp()[:, None]
        if has_kernel(x_BCT):
            from speechmill.codecs.nn.kernels.snake import fused_snake

            y_BCT: Tensor = fused_snake(x_BCT, (alpha_C1, beta_C1), _EPS, None, False)
            return y_BCT
        return x_BCT + torch.sin(x_BCT * alpha_C1).square() / (beta_C1 + _EPS)

    def _downsample(self, x_N1T: Tensor) -> Tensor:
        padded_N1T = F.pad(x_N1T, (_TAPS // 2 - 1, _TAPS // 2), mode="replicate")
        return F.conv1d(padded_N1T, self.taps_K, stride=2)


def kaiser_sinc(taps: int, cutoff: float, half_width: float) -> Tensor:
    """Return a low-pass of an even number of taps that sums to one.

    `cutoff` and `half_width` (of the transition) are in cycles per sample. The window's shape
    follows Kaiser's rule for the attenuation that this number of taps can reach.
    """
    attenuation = 2.285 * (taps // 2 - 1) * pi * 4 * half_width + 7.95  # dB
    window_K = torch.kaiser_window(taps, False, _kaiser_beta(attenuation))
    time_K = torch.arange(taps) - taps / 2 + 0.5
    taps_K = 2 * cutoff * window_K * torch.sinc(2 * cutoff * time_K)
    return taps_K / taps_K.sum()


def _kaiser_beta(attenuation: float) -> float:
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    excess = max(0.0, attenuation - 21)
    return float(0.5842 * excess**0.4 + 0.07886 * excess)
