"""The network of PURE Codec: encoder and decoder (SEANet), a VAE head and residual quantization.

Layers and sizes follow arXiv 2511.22687 (sections III-A and III-C) and, for what the paper does not
state, the first author's public configuration.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from speechmill.codecs.nn.conv import PaddedConv1d, TrimmedConvTranspose1d
from speechmill.codecs.nn.quantize import ResidualQuantizer
from speechmill.codecs.nn.snake import snake
from speechmill.codecs.pure.config import PureConfig
from speechmill.codecs.pure.frames import FrameDecoder, FrameEncoder

_LOGVAR = -2.0  # initial log-variance of all backbones but SEANet


class PureNetwork(nn.Module):
    """Everything in a checkpoint."""

    def __init__(self, config: PureConfig) -> None:
        super().__init__()
        encoder, decoder = _BACKBONES[config.backbone]
        self.encoder = encoder(config)
        self.vae_head = nn.Conv1d(config.dim, 2 * config.dim, 1)
        self.quantizer = ResidualQuantizer(
            config.num_stages, config.codebook_size, config.dim, config.num_searched
        )
        self.decoder = decoder(config)
        if config.backbone != "seanet":
            _start_as_identity(self.vae_head)

    def posterior(self, audio_BT: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mu_BDF and logvar_BDF of the latent (eq. 10)."""
        mu_BDF, logvar_BDF = self.vae_head(self.encoder(audio_BT[:, None], lengths_B)).chunk(2, 1)
        return mu_BDF, logvar_BDF

    def encode(
        self, audio_BT: Tensor, num_codebooks: int, lengths_B: Tensor | None = None
    ) -> Tensor:
        """Return codes_BKF of the posterior's mean."""
        mu_BDF, _ = self.posterior(audio_BT, lengths_B)
        return self.quantizer.encode(mu_BDF, num_codebooks)

    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor | None = None) -> Tensor:
        """Return audio_BT of hop_length samples per frame."""
        audio_B1T: Tensor = self.decoder(self.quantizer.decode(codes_BKF), num_frames_B)
        return audio_B1T[:, 0]


class SeanetEncoder(nn.Module):
    """audio_B1T to h_BDF."""

    def __init__(self, config: PureConfig) -> None:
        super().__init__()
        self.first = PaddedConv1d(1, config.channels[0], config.kernel)
        widths = zip(config.channels, config.channels[1:], config.strides, strict=False)
        self.stages = nn.ModuleList(SeanetDownStage(config, *width) for width in widths)
        self.lstm = _lstm(config, config.channels[-1])
        self.last = PaddedConv1d(config.channels[-1], config.dim, config.kernel)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> Tensor:
        x_BCT = self.first(x_BCT, lengths_B)
        for stage in self.stages:
            x_BCT, lengths_B = stage(x_BCT, lengths_B)
        h_BDF: Tensor = self.last(self.lstm(x_BCT), lengths_B, activate=True)
        return h_BDF


class SeanetDecoder(nn.Module):
    """z_BDF to audio_B1T: the mirrored encoder, without a tanh at the end."""

    def __init__(self, config: PureConfig) -> None:
        super().__init__()
        channels, strides = config.channels[::-1], config.strides[::-1]
        self.first = PaddedConv1d(config.dim, channels[0], config.kernel)
        self.lstm = _lstm(config, channels[0])
        widths = zip(channels, channels[1:], strides, strict=False)
        self.stages = nn.ModuleList(SeanetUpStage(config, *width) for width in widths)
        self.last = PaddedConv1d(channels[-1], 1, config.kernel)

    def forward(self, z_BDF: Tensor, lengths_B: Tensor | None) -> Tensor:
        x_BCT = self.lstm(self.first(z_BDF, lengths_B))
        for stage in self.stages:
            x_BCT, lengths_B = stage(x_BCT, lengths_B)
        audio_B1T: Tensor = self.last(x_BCT, lengths_B, activate=True)
        return audio_B1T


class SeanetDownStage(nn.Module):
    """Residual blocks, then a convolution that keeps every stride-th column."""

    def __init__(self, config: PureConfig, width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.blocks = _residual_blocks(config, width)
        self.down = PaddedConv1d(width, out_width, 2 * stride, stride=stride)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for block in self.blocks:
            x_BCT = block(x_BCT, lengths_B)
        x_BCT = self.down(x_BCT, lengths_B, activate=True)
        stride = self.down.stride
        return x_BCT, None if lengths_B is None else (lengths_B + stride - 1) // stride


class SeanetUpStage(nn.Module):
    """A transposed convolution, then residual blocks."""

    def __init__(self, config: PureConfig, width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.up = TrimmedConvTranspose1d(width, out_width, stride=stride)
        self.blocks = _residual_blocks(config, out_width)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x_BCT = self.up(snake(x_BCT), lengths_B)
        lengths_B = None if lengths_B is None else lengths_B * self.up.stride
        for block in self.blocks:
            x_BCT = block(x_BCT, lengths_B)
        return x_BCT, lengths_B


class SeanetBlock(nn.Module):
    """Snake, dilated convolution to half the width, Snake, 1x1 back; the shortcut is also 1x1."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.narrow = PaddedConv1d(width, width // 2, kernel, dilation=dilation)
        self.widen = PaddedConv1d(width // 2, width, 1)
        self.shortcut = PaddedConv1d(width, width, 1)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> Tensor:
        y_BCT: Tensor = self.widen(snake(self.narrow(x_BCT, lengths_B, activate=True)))
        shortcut_BCT: Tensor = self.shortcut(x_BCT)
        return shortcut_BCT + y_BCT


class SkipLSTM(nn.Module):
    """A unidirectional LSTM, added to its input: padding does not reach the row before it."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers)

    def forward(self, x_BCT: Tensor) -> Tensor:
        y_TBC: Tensor = self.lstm(x_BCT.permute(2, 0, 1))[0]
        return x_BCT + y_TBC.permute(1, 2, 0)


def _residual_blocks(config: PureConfig, width: int) -> nn.ModuleList:
    return nn.ModuleList(SeanetBlock(width, config.kernel, d) for d in config.dilations)


def _lstm(config: PureConfig, width: int) -> nn.Module:
    return SkipLSTM(width, config.lstm_layers) if config.lstm_layers else nn.Identity()


def _start_as_identity(vae_head: nn.Conv1d) -> None:
    """Start with the encoder's output as the mean, and with little noise."""
    assert vae_head.bias is not None
    dim = vae_head.in_channels
    with torch.no_grad():
        vae_head.weight.mul_(0.1)
        vae_head.weight[:dim, :, 0] = torch.eye(dim)
        vae_head.bias.zero_()
        vae_head.bias[dim:] = _LOGVAR


_BACKBONES: dict[str, tuple[Callable[[PureConfig], nn.Module], Callable[[PureConfig], nn.Module]]]
_BACKBONES = {
    "seanet": (SeanetEncoder, SeanetDecoder),
    "frames": (FrameEncoder, FrameDecoder),
    "subframes": (FrameEncoder, FrameDecoder),
}
