"""Encoder and decoder whose blocks run at the frame rate, for training in hours on a CPU.

They are not from the paper, whose SEANet costs ten times as much per second of audio. The encoder
reads each frame's modified discrete cosine transform (MDCT) and log-mel spectrum, the decoder
returns the MDCT of each frame; between them are ConvNeXt blocks (Vocos, arXiv 2306.00814). In
parallel, a linear map passes on the lowest MDCT coefficients, so that the output follows the
waveform from the first step on.

With the backbone "subframes", the encoder also reads, and the decoder also sets, how loud each band
is in each quarter of a frame (infra/decisions/0011-pure-search-table.md).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.convnext import ConvNeXtBackbone
from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.nn.spectra import MDCT, STFT, mel_bank
from speechmill.codecs.pure.config import SUBFRAMES, PureConfig

_FLOOR = 1e-5  # of a mel band's magnitude
_SCALE = 5.0  # of MDCT coefficients, so that the low ones of speech have about unit variance
_LATENT = 1.0  # scale of these coefficients in the latent
_QUIET = 2.0  # initial attenuation (log) of the decoder's blocks, so that the linear map dominates
_MAX_LOG_GAIN = 4.0
_FINE_STEPS, _FINE_BANDS = 5, 60  # window, in subframes, and bands of their log-mel spectrum
_GAIN_STEPS, _GAIN_BANDS = 4, 32  # window of the STFT that gains act on, and their bands
_LOG_GAINS = (-4.0, 3.0)  # least and largest


class LogMel(nn.Module):
    """Log-mel spectrum around the middle of each hop, near unit variance; zeros pad the audio."""

    bank_SM: Tensor

    def __init__(self, window: int, hop_length: int, bands: int, sample_rate: int) -> None:
        super().__init__()
        self.stft = STFT(window, hop_length)
        self.register_buffer("bank_SM", mel_bank(window, bands, sample_rate), persistent=False)

    def forward(self, audio_BT: Tensor) -> Tensor:
        """Return mel_BFM of whole hops of audio."""
        mel_BFM = self.stft(audio_BT.float()).abs() @ self.bank_SM
        log_mel_BFM: Tensor = (mel_BFM.clamp(min=_FLOOR).log() + 5) / 4
        return log_mel_BFM


class FrameEncoder(nn.Module):
    """audio_B1T to h_BDF."""

    def __init__(self, config: PureConfig) -> None:
        super().__init__()
        hop_length, sample_rate = config.hop_length, config.sample_rate
        self.hop_length = hop_length
        self.mdct = MDCT(hop_length)
        self.mel = LogMel(config.window, hop_length, config.bands, sample_rate)
        input_dim = hop_length + config.bands
        self.fine_mel: LogMel | None = None
        if config.backbone == "subframes":
            step = hop_length // SUBFRAMES
            self.fine_mel = LogMel(_FINE_STEPS * step, step, _FINE_BANDS, sample_rate)
            input_dim += SUBFRAMES * _FINE_BANDS
        self.backbone = _backbone(config, input_dim)
        self.last = nn.Linear(config.width, config.dim)
        self.low = nn.Linear(config.hop_length, config.dim, bias=False)
        _start_as_identity(self.low, _LATENT)

    def forward(self, x_B1T: Tensor, lengths_B: Tensor | None) -> Tensor:
        audio_BT = x_B1T[:, 0]
        if lengths_B is not None:
            audio_BT = mask_padding(audio_BT, lengths_B)
            lengths_B = (lengths_B + self.hop_length - 1) // self.hop_length
        audio_BT = F.pad(audio_BT, (0, -audio_BT.shape[-1] % self.hop_length))
        mdct_BFS = _SCALE * self.mdct(audio_BT)
        features = [mdct_BFS, self.mel(audio_BT)]
        if self.fine_mel is not None:
            features.append(self.fine_mel(audio_BT).unflatten(1, (-1, SUBFRAMES)).flatten(2))
        x_BFC = torch.cat(features, dim=-1)
        h_BFD: Tensor = self.last(self.backbone(x_BFC, lengths_B)) + self.low(mdct_BFS)
        return h_BFD.transpose(1, 2)


class FrameDecoder(nn.Module):
    """z_BDF to audio_B1T."""

    def __init__(self, config: PureConfig) -> None:
        super().__init__()
        self.backbone = _backbone(config, config.dim)
        self.head = nn.Linear(config.width, 2 * config.hop_length)
        self.low = nn.Linear(config.dim, config.hop_length, bias=False)
        self.mdct = MDCT(config.hop_length)
        self.gains = SubframeGains(config) if config.backbone == "subframes" else None
        _start_as_identity(self.low, 1 / _LATENT)

    def forward(self, z_BDF: Tensor, lengths_B: Tensor | None) -> Tensor:
        z_BFD = z_BDF.transpose(1, 2)
        y_BFC = self.backbone(z_BFD, lengths_B)
        log_gain_BFS, shape_BFS = self.head(y_BFC).float().chunk(2, -1)
        gain_BFS = (log_gain_BFS - _QUIET).clamp(max=_MAX_LOG_GAIN).exp()
        mdct_BFS = gain_BFS * shape_BFS + self.low(z_BFD)
        audio_BT = self.mdct.inverse(mdct_BFS / _SCALE, lengths_B)
        if self.gains is not None:
            audio_BT = self.gains(audio_BT, y_BFC, lengths_B)
        return audio_BT[:, None]


class SubframeGains(nn.Module):
    """Make bands of decoded audio louder or softer in each quarter of a frame.

    The gains start at 1. They act on the STFT of the decoded audio, whose hop is the subframe.
    """

    bands_MS: Tensor

    def __init__(self, config: PureConfig) -> None:
        super().__init__()
        step = config.hop_length // SUBFRAMES
        self.hop_length = config.hop_length
        self.head = nn.Linear(config.width, SUBFRAMES * _GAIN_BANDS)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.stft = STFT(_GAIN_STEPS * step, step)
        bands_MS = _between_bands(_GAIN_BANDS, _GAIN_STEPS * step, config.sample_rate)
        self.register_buffer("bands_MS", bands_MS, persistent=False)

    def forward(self, audio_BT: Tensor, y_BFC: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return audio_BT with the gains that y_BFC, the output of the blocks, asks for."""
        if lengths_B is not None:
            audio_BT = mask_padding(audio_BT, lengths_B * self.hop_length)
            lengths_B = lengths_B * SUBFRAMES
        log_gain_BFM = self.head(y_BFC).float().unflatten(-1, (SUBFRAMES, -1)).flatten(1, 2)
        with torch.autocast(audio_BT.device.type, enabled=False):
            gain_BFS = (log_gain_BFM.clamp(*_LOG_GAINS) @ self.bands_MS).exp()
            return self.stft.inverse(self.stft(audio_BT) * gain_BFS, lengths_B)


def _between_bands(bands: int, n_fft: int, sample_rate: int) -> Tensor:
    """Return weights_MS: values of bands, even on the mel scale, times these are those of bins."""
    frequency_S = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    mel_S = torch.log1p(frequency_S / 700)  # the mel scale up to a factor
    position_S = (bands - 1) * mel_S / mel_S[-1]
    return (1 - (position_S - torch.arange(bands)[:, None]).abs()).clamp(min=0)


def _start_as_identity(linear: nn.Linear, scale: float) -> None:
    """Start as an identity of the first inputs or outputs, whichever are fewer."""
    nn.init.normal_(linear.weight, std=0.01)
    with torch.no_grad():
        linear.weight += scale * torch.eye(*linear.weight.shape)


def _backbone(config: PureConfig, input_dim: int) -> ConvNeXtBackbone:
    backbone = ConvNeXtBackbone(
        input_dim, config.width, config.inner_width, config.depth, config.kernel
    )
    for name, parameter in backbone.named_parameters():
        if name.endswith(".gamma"):
            nn.init.constant_(parameter, 1 / config.depth)  # Vocos's initial value
    return backbone
