"""The network of FocalCodec (arXiv 2502.04465) and of FocalCodec-Stream (arXiv 2509.16195).

With `memory` (causal variants), audio or codes continue the previous call's; every chunk except the
last must be whole.
"""

import torch
from torch import Tensor, nn

from speechmill.codecs.focalcodec.compressor import Compressor, Decompressor
from speechmill.codecs.focalcodec.config import (
    FocalCodecConfig,
    VocosConfig,
    WaveNeXtConfig,
    WavLMConfig,
)
from speechmill.codecs.nn.binary import BinarySphericalQuantizer
from speechmill.codecs.nn.convnext import ConvNeXtBackbone
from speechmill.codecs.nn.frame_conv import Memory
from speechmill.codecs.nn.spectra import ISTFTHead
from speechmill.codecs.nn.wavlm.model import WavLM
from speechmill.codecs.nn.wavlm.sizes import WavLMSizes


class FocalCodecNetwork(nn.Module):
    """Everything in a checkpoint, under the names of the authors' version 0.0.2."""

    def __init__(self, config: FocalCodecConfig) -> None:
        super().__init__()
        self.encoder = WavLMFeatures(config.encoder)
        self.compressor = Compressor(config.compressor)
        self.quantizer = BinarySphericalQuantizer(config.compressor.output_dim)
        self.decompressor = Decompressor(config.decompressor)
        self.decoder = Vocoder(config.decoder)

    def latents(
        self,
        audio_BT: Tensor,
        num_samples_B: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Return latents_BND, whose signs are the codes; their length does not matter."""
        features_BFC, num_frames_B = self.encoder(audio_BT, num_samples_B, memory)
        latents_BND: Tensor = self.compressor(features_BFC, num_frames_B, memory)
        return latents_BND

    def encode(
        self,
        audio_BT: Tensor,
        num_samples_B: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Return codes_BKF of one codebook."""
        return self.quantizer.encode(self.latents(audio_BT, num_samples_B, memory))[:, None]

    def decode(
        self, codes_BKF: Tensor, num_frames_B: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Return audio_BT."""
        corners_BND = self.quantizer.decode(codes_BKF[:, 0])
        features_BFC, lengths_B = self.decompressor(corners_BND, num_frames_B, memory)
        audio_BT: Tensor = self.decoder(features_BFC, lengths_B, memory)
        return audio_BT


class WavLMFeatures(WavLM):
    """audio_BT to features_BFD: the residual stream after the last layer, with no norm after it."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__(
            WavLMSizes(
                conv_dims=config.hidden_dims,
                kernels=config.kernel_sizes,
                strides=config.strides,
                num_layers=config.num_layers,
                dim=config.dim,
                ffn_dim=config.ffn_dim,
                heads=config.num_heads,
                positions_kernel=config.conv_pos,
                positions_groups=config.conv_pos_groups,
                num_buckets=config.num_buckets,
                max_distance=config.max_distance,
                short_rows=True,
                causal=config.causal,
                window=config.window_size,
                chunk=config.chunk_frames,
            )
        )

    def forward(
        self,
        audio_BT: Tensor,
        num_samples_B: Tensor | None = None,
        memory: Memory | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the features and each row's frames."""
        x_BFD, num_frames_B = self.features(audio_BT, num_samples_B, memory)
        # in half precision too, the sum over all layers is kept in float32
        for state_BFD in self.encoder(x_BFD.float(), num_frames_B, memory):
            x_BFD = state_BFD
        return x_BFD, num_frames_B


class Vocoder(nn.Module):
    """features_BFC to audio_BT."""

    def __init__(self, config: VocosConfig | WaveNeXtConfig) -> None:
        super().__init__()
        self.backbone = ConvNeXtBackbone(
            config.input_dim,
            config.dim,
            config.ffn_dim,
            config.num_layers,
            config.kernel_size,
            padding="zeros" if config.causal else "same",
        )
        self.head: ISTFTHead | LinearHead
        if isinstance(config, VocosConfig):
            self.head = ISTFTHead(config.dim, config.n_fft, config.hop_length)
        else:
            self.head = LinearHead(config.dim, config.hop_length)

    def forward(self, x_BFC: Tensor, lengths_B: Tensor | None, memory: Memory | None) -> Tensor:
        audio_BT: Tensor = self.head(self.backbone(x_BFC, lengths_B, memory), lengths_B)
        return audio_BT


class LinearHead(nn.Module):
    """A linear layer from each frame to its samples, clipped to [-1, 1]."""

    def __init__(self, dim: int, hop_length: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hop_length)

    def forward(self, x_BFD: Tensor, lengths_B: Tensor | None) -> Tensor:
        return torch.clamp(self.proj(x_BFD).flatten(1), -1, 1)
