"""GTCRN: a network of 48 k parameters that filters the spectrum, causal.

Rong, Sun, Zhang, Hu, Zhu, Lu: "GTCRN: A Speech Enhancement Model Requiring Ultralow Computational
Resources", ICASSP 2024. Names and sizes are those of the published checkpoints of
Xiaobin-Rong/gtcrn (`model_trained_on_dns3.tar`, `model_trained_on_vctk.tar`; MIT).
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.checkpoint import load_strict, read_state_dict
from speechmill.codecs.fetch import digest, fetch
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.enhance.api import EnhancerSettings, enhancer_revision

_ALGORITHM = 1  # raised when the same weights give another result
_N_FFT, _HOP = 512, 256
_LOW_BINS, _BANDS = 65, 64  # bins that are kept, and bands into which the others are merged
_CHANNELS, _WIDTH = 16, 33  # of the encoder's output: channels, and columns of a frame
_DILATIONS = (1, 2, 5)


class Gtcrn:
    """The enhancer at 16 kHz; processes a whole clip at once, on the CPU."""

    name = "gtcrn"
    sample_rate = 16_000

    def __init__(self, settings: EnhancerSettings):
        assert settings.model
        path = fetch(settings.model)
        self._network = GtcrnNetwork().eval().requires_grad_(False)
        load_strict(self._network, read_state_dict(path, key="model"), settings.model)
        self.revision = enhancer_revision(
            algorithm=_ALGORITHM, name=self.name, weights=digest(path)
        )

    @torch.inference_mode()
    def enhance(self, audio_T: Samples) -> Samples:
        """Return audio of the same length, aligned to the sample."""
        padded_T = F.pad(torch.from_numpy(np.asarray(audio_T, np.float32)), (0, _N_FFT))
        window = torch.hann_window(_N_FFT).sqrt()
        spectrum_FT = torch.stft(
            padded_T, _N_FFT, _HOP, window=window, pad_mode="constant", return_complex=True
        )
        enhanced_FT = self._network(spectrum_FT[None])[0]
        out_T = torch.istft(enhanced_FT, _N_FFT, _HOP, window=window, length=len(padded_T))
        return np.asarray(out_T[: len(audio_T)].numpy(), np.float32)


class GtcrnNetwork(nn.Module):
    """spectrum_BFT to the enhanced spectrum_BFT, both complex."""

    def __init__(self) -> None:
        super().__init__()
        self.erb = Bands()
        self.encoder = GtcrnEncoder()
        self.dpgrnn1 = DualPath()
        self.dpgrnn2 = DualPath()
        self.decoder = GtcrnDecoder()

    def forward(self, spectrum_BFT: Tensor) -> Tensor:
        spectrum_BTF = spectrum_BFT.transpose(1, 2)
        magnitude_BTF = (spectrum_BTF.abs() ** 2 + 1e-12).sqrt()
        parts = [magnitude_BTF, spectrum_BTF.real, spectrum_BTF.imag]
        x_BCTF = with_neighbours(self.erb.narrow(torch.stack(parts, dim=1)))
        x_BCTF, skips = self.encoder(x_BCTF)
        x_BCTF = self.dpgrnn2(self.dpgrnn1(x_BCTF))
        mask_B2TF = self.erb.widen(self.decoder(x_BCTF, skips))
        mask_BTF = torch.complex(mask_B2TF[:, 0], mask_B2TF[:, 1])
        return (spectrum_BTF * mask_BTF).transpose(1, 2)


class Bands(nn.Module):
    """Low bins unchanged, high bins in bands of equal rectangular bandwidth, and back."""

    def __init__(self) -> None:
        super().__init__()
        high_bins = _N_FFT // 2 + 1 - _LOW_BINS
        self.erb_fc = nn.Linear(high_bins, _BANDS, bias=False)
        self.ierb_fc = nn.Linear(_BANDS, high_bins, bias=False)

    def narrow(self, x_BCTF: Tensor) -> Tensor:
        return torch.cat([x_BCTF[..., :_LOW_BINS], self.erb_fc(x_BCTF[..., _LOW_BINS:])], dim=-1)

    def widen(self, x_BCTF: Tensor) -> Tensor:
        return torch.cat([x_BCTF[..., :_LOW_BINS], self.ierb_fc(x_BCTF[..., _LOW_BINS:])], dim=-1)


class GtcrnEncoder(nn.Module):
    """129 columns to 33; also returns the output of every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.en_convs = nn.ModuleList(
            [GtcrnBlock(9, _CHANNELS), GtcrnBlock(_CHANNELS, _CHANNELS, groups=2)]
            + [TemporalBlock(dilation) for dilation in _DILATIONS]
        )

    def forward(self, x_BCTF: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for layer in self.en_convs:
            x_BCTF = layer(x_BCTF)
            skips.append(x_BCTF)
        return x_BCTF, skips


class GtcrnDecoder(nn.Module):
    """The mirrored encoder; each layer takes the sum of its input and its mirror layer's output."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [
            TemporalBlock(dilation, transposed=True) for dilation in _DILATIONS[::-1]
        ]
        blocks.append(GtcrnBlock(_CHANNELS, _CHANNELS, groups=2, transposed=True))
        blocks.append(GtcrnBlock(_CHANNELS, 2, transposed=True, act=nn.Tanh()))
        self.de_convs = nn.ModuleList(blocks)

    def forward(self, x_BCTF: Tensor, skips: list[Tensor]) -> Tensor:
        for layer, skip_BCTF in zip(self.de_convs, reversed(skips), strict=True):
            x_BCTF = layer(x_BCTF + skip_BCTF)
        return x_BCTF


class GtcrnBlock(nn.Module):
    """A convolution over five columns with stride 2, or its transpose."""

    def __init__(
        self,
        width: int,
        out_width: int,
        groups: int = 1,
        transposed: bool = False,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.conv = kind(width, out_width, (1, 5), stride=(1, 2), padding=(0, 2), groups=groups)
        self.bn = nn.BatchNorm2d(out_width)
        self.act = act or nn.PReLU()

    def forward(self, x_BCTF: Tensor) -> Tensor:
        y_BCTF: Tensor = self.act(self.bn(self.conv(x_BCTF)))
        return y_BCTF


class TemporalBlock(nn.Module):
    """A dilated causal convolution of half of the channels, then shuffled with the other half."""

    def __init__(self, dilation: int, transposed: bool = False) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        half = _CHANNELS // 2
        self.history = 2 * dilation
        self.point_conv1 = kind(3 * half, _CHANNELS, 1)
        self.point_bn1 = nn.BatchNorm2d(_CHANNELS)
        self.point_act = nn.PReLU()
        self.depth_conv = kind(
            _CHANNELS,
            _CHANNELS,
            (3, 3),
            padding=(self.history if transposed else 0, 1),
            dilation=(dilation, 1),
            groups=_CHANNELS,
        )
        self.depth_bn = nn.BatchNorm2d(_CHANNELS)
        self.depth_act = nn.PReLU()
        self.point_conv2 = kind(_CHANNELS, half, 1)
        self.point_bn2 = nn.BatchNorm2d(half)
        self.tra = TimeAttention(half)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        changed, kept = x_BCTF.chunk(2, dim=1)
        y = self.point_act(self.point_bn1(self.point_conv1(with_neighbours(changed))))
        y = self.depth_conv(F.pad(y, (0, 0, self.history, 0)))
        y = self.point_bn2(self.point_conv2(self.depth_act(self.depth_bn(y))))
        return torch.stack([self.tra(y), kept], dim=2).flatten(1, 2)


class TimeAttention(nn.Module):
    """A gain for each channel and frame, from the energies up to that frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.att_gru = nn.GRU(width, 2 * width, batch_first=True)
        self.att_fc = nn.Linear(2 * width, width)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        energy_BTC = x_BCTF.square().mean(dim=-1).transpose(1, 2)
        gain_BTC = torch.sigmoid(self.att_fc(self.att_gru(energy_BTC)[0]))
        return x_BCTF * gain_BTC.transpose(1, 2)[..., None]


class DualPath(nn.Module):
    """Recurrence across the bands of a frame, then across the frames of a band."""

    def __init__(self) -> None:
        super().__init__()
        self.intra_rnn = GroupedGru(_CHANNELS // 2, bidirectional=True)
        self.intra_fc = nn.Linear(_CHANNELS, _CHANNELS)
        self.intra_ln = nn.LayerNorm((_WIDTH, _CHANNELS), eps=1e-8)
        self.inter_rnn = GroupedGru(_CHANNELS)
        self.inter_fc = nn.Linear(_CHANNELS, _CHANNELS)
        self.inter_ln = nn.LayerNorm((_WIDTH, _CHANNELS), eps=1e-8)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        x_BTFC = x_BCTF.permute(0, 2, 3, 1)
        bands = self.intra_fc(self.intra_rnn(x_BTFC.flatten(0, 1))).view(x_BTFC.shape)
        x_BTFC = x_BTFC + self.intra_ln(bands)
        x_BFTC = x_BTFC.transpose(1, 2)
        frames = self.inter_fc(self.inter_rnn(x_BFTC.flatten(0, 1))).view(x_BFTC.shape)
        y_BTFC: Tensor = x_BTFC + self.inter_ln(frames.transpose(1, 2))
        return y_BTFC.permute(0, 3, 1, 2)


class GroupedGru(nn.Module):
    """Two GRUs, each over half of the channels."""

    def __init__(self, hidden: int, bidirectional: bool = False) -> None:
        super().__init__()
        sizes = (_CHANNELS // 2, hidden // 2)
        self.rnn1 = nn.GRU(*sizes, batch_first=True, bidirectional=bidirectional)
        self.rnn2 = nn.GRU(*sizes, batch_first=True, bidirectional=bidirectional)

    def forward(self, x_NLC: Tensor) -> Tensor:
        first, second = x_NLC.chunk(2, dim=-1)
        return torch.cat([self.rnn1(first)[0], self.rnn2(second)[0]], dim=-1)


def with_neighbours(x_BCTF: Tensor) -> Tensor:
    """Make three channels of each: every column's lower neighbour, the column, its upper one."""
    columns = F.pad(x_BCTF, (1, 1)).unfold(-1, 3, 1)
    return columns.permute(0, 1, 4, 2, 3).flatten(1, 2)
