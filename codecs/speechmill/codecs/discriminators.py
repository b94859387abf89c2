"""Networks that tell real audio from a codec's output, for training only."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from speechmill.codecs.losses import Features

_SLOPE = 0.1  # of the leaky ReLU below zero
_PEAK = 0.8  # of all audio, so that its level does not tell real from fake
_BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # edges, as parts of the spectrum (DAC)


class Discriminators(nn.Module):
    """Multi-period (HiFi-GAN) and band-split complex STFT discriminators (DAC)."""

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        ffts: Sequence[int] = (1024, 512, 256, 128),
        period_channels: Sequence[int] = (32, 128, 512, 1024, 1024),
        band_channels: int = 32,
    ) -> None:
        super().__init__()
        discriminators: list[nn.Module] = [
            PeriodDiscriminator(period, period_channels) for period in periods
        ]
        discriminators += [BandDiscriminator(fft, band_channels) for fft in ffts]
        self.judges = nn.ModuleList(discriminators)  # the name in training checkpoints

    def forward(self, audio_BT: Tensor) -> Features:
        """Return the layers' outputs of each discriminator, its logits last."""
        audio_BT = audio_BT.float() - audio_BT.float().mean(-1, keepdim=True)
        peak_B1 = audio_BT.abs().amax(-1, keepdim=True)
        level_BT = audio_BT * (_PEAK / (peak_B1 + 1e-9))
        return [discriminator(level_BT) for discriminator in self.judges]


class PeriodDiscriminator(nn.Module):
    """Compares samples one period apart (HiFi-GAN, arXiv 2010.05646, section 2.3)."""

    def __init__(self, period: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.period = period
        widths = list(pairwise((1, *channels)))
        self.layers = nn.ModuleList(
            weight_norm(
                nn.Conv2d(a, b, (5, 1), (1 if i == len(widths) - 1 else 3, 1), padding=(2, 0))
            )
            for i, (a, b) in enumerate(widths)
        )
        self.last = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio_BT: Tensor) -> list[Tensor]:
        missing = -audio_BT.shape[-1] % self.period
        padded_BT = F.pad(audio_BT[:, None], (0, missing), mode="reflect")[:, 0]
        x = padded_BT.view(len(audio_BT), 1, -1, self.period)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return [*features, self.last(x)]


class BandDiscriminator(nn.Module):
    """Reads the complex STFT, each band with its own layers (DAC, arXiv 2306.06546, 3.3)."""

    def __init__(self, fft: int, channels: int) -> None:
        super().__init__()
        self.fft = fft
        bins = fft // 2 + 1
        self.edges = [(int(a * bins), int(b * bins)) for a, b in pairwise(_BANDS)]
        self.bands = nn.ModuleList(_band_layers(channels) for _ in self.edges)
        self.last = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, audio_BT: Tensor) -> list[Tensor]:
        window_N = torch.hann_window(self.fft, device=audio_BT.device)
        spectrum = torch.stft(
            audio_BT, self.fft, self.fft // 4, window=window_N, return_complex=True
        )
        x_B2FS = torch.view_as_real(spectrum).permute(0, 3, 2, 1)
        features, ends = [], []
        for (low, high), layers in zip(self.edges, self.bands, strict=True):
            x = x_B2FS[..., low:high]
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                x = F.leaky_relu(layer(x), _SLOPE)
                features.append(x)
            ends.append(x)
        return [*features, self.last(torch.cat(ends, dim=-1))]


def _band_layers(channels: int) -> nn.ModuleList:
    """Four layers over time and frequency, three of which halve the frequency axis."""
    first = nn.Conv2d(2, channels, (3, 9), padding=(1, 4))
    halving = [nn.Conv2d(channels, channels, (3, 9), (1, 2), padding=(1, 4)) for _ in range(3)]
    last = nn.Conv2d(channels, channels, (3, 3), padding=(1, 1))
    return nn.ModuleList(weight_norm(conv) for conv in (first, *halving, last))
