"""Encoder and decoder that compute only at the frame rate, for training in minutes on a CPU.

They are not from the paper, whose SEANet costs ten times as much per second of audio. The encoder
reads each frame's modified discrete cosine transform (MDCT) and log-mel spectrum, the decoder
returns the MDCT of each frame; between them are ConvNeXt blocks (Vocos, arXiv 2306.00814). In
parallel, a linear map passes on the lowest MDCT coefficients, so that the output follows the
waveform from the first step on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.convnext import ConvNeXtBackbone
from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.nn.spectra import MDCT, mel_bank
from speechmill.codecs.pure.config import PureConfig

_FLOOR = 1e-5  # of a mel band's magnitude
_SCALE = 5.0  # of MDCT coefficients, so that the low ones of speech have about unit variance
_LATENT = 1.0  # scale of these coefficients in the latent
_QUIET = 2.0  # initial attenuation (log) of the decoder's blocks, so that the linear map dominates
_MAX_LOG_GAIN = 4.0


class FrameEncoder(nn.Module):
    """audio_B1T to h_BDF."""

    bank_SM: Tensor
    window_N: Tensor

    def __init__(self, config: PureConfig) -> None:
        super().__init__()
        self.hop_length = config.hop_length
        self.mdct = MDCT(config.hop_length)
        self.register_buffer(
            "bank_SM", mel_bank(config.window, config.bands, config.sample_rate), persistent=False
        )
        window_N = torch.hann_window(config.window)
        self.register_buffer("window_N", window_N, persistent=False)
        self.backbone = _backbone(config, config.hop_length + config.bands)
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
        x_BFC = torch.cat([mdct_BFS, self._log_mel(audio_BT)], dim=-1)
        h_BFD: Tensor = self.last(self.backbone(x_BFC, lengths_B)) + self.low(mdct_BFS)
        return h_BFD.transpose(1, 2)

    def _log_mel(self, audio_BT: Tensor) -> Tensor:
        """Return mel_BFM around each frame's middle, near unit variance; zeros pad the audio."""
        outside = len(self.window_N) - self.hop_length
        padded_BT = F.pad(audio_BT, (outside // 2, outside - outside // 2))
        windows_BFN = padded_BT.unfold(-1, len(self.window_N), self.hop_length) * self.window_N
        mel_BFM = torch.fft.rfft(windows_BFN.float()).abs() @ self.bank_SM
        log_mel_BFM: Tensor = (mel_BFM.clamp(min=_FLOOR).log() + 5) / 4
        return log_mel_BFM


class FrameDecoder(nn.Module):
    """z_BDF to audio_B1T."""

    def __init__(self, config: PureConfig) -> None:
        super().__init__()
        self.backbone = _backbone(config, config.dim)
        self.head = nn.Linear(config.width, 2 * config.hop_length)
        self.low = nn.Linear(config.dim, config.hop_length, bias=False)
        self.mdct = MDCT(config.hop_length)
        _start_as_identity(self.low, 1 / _LATENT)

    def forward(self, z_BDF: Tensor, lengths_B: Tensor | None) -> Tensor:
        z_BFD = z_BDF.transpose(1, 2)
        log_gain_BFS, shape_BFS = self.head(self.backbone(z_BFD, lengths_B)).float().chunk(2, -1)
        gain_BFS = (log_gain_BFS - _QUIET).clamp(max=_MAX_LOG_GAIN).exp()
        mdct_BFS = gain_BFS * shape_BFS + self.low(z_BFD)
        audio_BT = self.mdct.inverse(mdct_BFS / _SCALE, lengths_B)
        return audio_BT[:, None]


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
