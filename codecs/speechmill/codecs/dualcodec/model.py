"""The network of DualCodec (arXiv 2505.13000, section 2): two streams that share one decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from speechmill.codecs.dualcodec.config import DualCodecConfig
from speechmill.codecs.nn.convnext import ConvNeXtBlock
from speechmill.codecs.nn.dac import DacDecoder, DacEncoder
from speechmill.codecs.nn.factorized import FactorizedQuantizer, ResidualFactorizedQuantizer
from speechmill.codecs.nn.frame_conv import FrameConv1d


class DualCodecNetwork(nn.Module):
    """Everything in a checkpoint; the self-supervised model is a separate file."""

    def __init__(self, config: DualCodecConfig) -> None:
        super().__init__()
        self.hop_length = config.hop_length
        dim, latent_dim = config.convnext_dim, config.latent_dim
        self.semantic_encoder = ConvNeXtStream(
            config, first=_pointwise(config.semantic_in_dim, dim)
        )
        self.semantic_quantizer = FactorizedQuantizer(
            dim, config.semantic_codebook_size, config.semantic_codebook_dim
        )
        self.semantic_decoder = ConvNeXtStream(config, last=_pointwise(dim, latent_dim))
        self.acoustic_encoder = DacEncoder(config.encoder_dim, config.encoder_rates, latent_dim)
        self.acoustic_quantizer = ResidualFactorizedQuantizer(
            latent_dim, config.n_codebooks, config.codebook_size, config.codebook_dim
        )
        self.acoustic_decoder = DacDecoder(latent_dim, config.decoder_dim, config.decoder_rates)

    def encode(
        self,
        audio_BT: Tensor,
        pooled_BND: Tensor,
        num_codebooks: int,
        num_samples_B: Tensor | None = None,
        num_frames_B: Tensor | None = None,
    ) -> Tensor:
        """Return codes_BKN, semantic codebook first; audio must be zero after `num_samples_B`."""
        semantic_BN = self.semantic_codes(pooled_BND, num_frames_B)
        if num_codebooks == 1:
            return semantic_BN[:, None]
        residual_BND = self.acoustic_latent(audio_BT, pooled_BND.shape[1], num_samples_B)
        residual_BND = residual_BND - self.semantic_latent(semantic_BN, num_frames_B)
        acoustic_BKN = self.acoustic_quantizer.encode(residual_BND, num_codebooks - 1)
        return torch.cat([semantic_BN[:, None], acoustic_BKN], dim=1)

    def decode(self, codes_BKN: Tensor, num_frames_B: Tensor | None = None) -> Tensor:
        """Return audio_BT from any prefix of the codebooks."""
        latent_BND = self.semantic_latent(codes_BKN[:, 0], num_frames_B)
        if codes_BKN.shape[1] > 1:
            latent_BND = latent_BND + self.acoustic_quantizer.decode(codes_BKN[:, 1:])
        audio_B1T: Tensor = self.acoustic_decoder(latent_BND.transpose(1, 2), num_frames_B)
        return audio_B1T[:, 0]

    def semantic_codes(self, pooled_BND: Tensor, num_frames_B: Tensor | None = None) -> Tensor:
        """Return semantic_BN of pooled self-supervised features."""
        return self.semantic_quantizer.encode(self.semantic_encoder(pooled_BND, num_frames_B))

    def semantic_latent(self, semantic_BN: Tensor, num_frames_B: Tensor | None = None) -> Tensor:
        """Return latent_BND, the decoder's input from the semantic codes."""
        word_BND = self.semantic_quantizer.decode(semantic_BN)
        latent_BND: Tensor = self.semantic_decoder(word_BND, num_frames_B)
        return latent_BND

    def acoustic_latent(
        self, audio_BT: Tensor, num_frames: int, num_samples_B: Tensor | None = None
    ) -> Tensor:
        """Return latent_BND of the waveform; zeros pad its last frame."""
        hop = self.hop_length
        audio_BT = F.pad(audio_BT, (0, -audio_BT.shape[1] % hop))
        if num_samples_B is not None:
            num_samples_B = -(-num_samples_B // hop) * hop
        latent_BDN: Tensor = self.acoustic_encoder(audio_BT[:, None], num_samples_B)
        return latent_BDN[..., :num_frames].transpose(1, 2)


class ConvNeXtStream(nn.Module):
    """ConvNeXt blocks without layer scale; `first` and `last` may change the width."""

    def __init__(
        self,
        config: DualCodecConfig,
        *,
        first: nn.Module | None = None,
        last: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.first = first or nn.Identity()
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(
                config.convnext_dim,
                config.convnext_intermediate_dim,
                padding="zeros" if config.is_causal else "same",
                layer_scale=False,
            )
            for _ in range(config.convnext_layers)
        )
        self.last = last or nn.Identity()

    def forward(self, x_BND: Tensor, num_frames_B: Tensor | None) -> Tensor:
        x_BND = self.first(x_BND)
        for block in self.blocks:
            x_BND = block(x_BND, num_frames_B)
        y_BND: Tensor = self.last(x_BND)
        return y_BND


def _pointwise(in_dim: int, out_dim: int) -> nn.Module:
    conv: nn.Module = weight_norm(FrameConv1d(in_dim, out_dim, 1, padding="valid"))
    return conv
