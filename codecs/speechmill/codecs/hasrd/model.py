"""The network of HASRD without the self-supervised model, which decoding does not need.

Codebook 0 is frozen k-means, the others quantize its residual.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechmill.codecs.hasrd.config import HasrdConfig
from speechmill.codecs.nn.dac import DacDecoder, DacEncoder
from speechmill.codecs.nn.factorized import FactorizedQuantizer, ResidualFactorizedQuantizer
from speechmill.codecs.nn.quantize import ResidualQuantizer


class Taps(NamedTuple):
    """The features of the self-supervised model that the codebooks quantize."""

    semantic_BFH: Tensor  # the layer that the centroids were fitted to
    mixed_BFH: Tensor | None  # the mixture of all layers, if that is the acoustic source


class HasrdNetwork(nn.Module):
    """Everything in a checkpoint."""

    def __init__(self, config: HasrdConfig) -> None:
        super().__init__()
        width, dim = config.ssl.hidden_size, config.dim
        self.source = config.acoustic_source
        self.pool_factor = config.pool_factor
        self.hop_length = config.hop_length
        self.centroids = ResidualQuantizer(1, config.semantic_codebook_size, width)
        self.semantic_proj = nn.Linear(width, dim)
        if self.source == "conv":
            self.encoder = DacEncoder(config.encoder_dim, config.encoder_rates, dim)
        else:
            self.acoustic_proj = nn.Linear(width, dim)
        if self.source == "weighted":
            self.layer_logits = nn.Parameter(torch.zeros(config.semantic_layer + 1))
        self.quantizer = _acoustic_quantizer(config)
        self.decoder = DacDecoder(dim, config.decoder_dim, config.decoder_rates, whole_frames=True)

    def cache_tables(self) -> None:
        """Compute the tables for searching the codebooks, for inference: they must not change."""
        for module in self.modules():
            if isinstance(module, ResidualQuantizer):
                module.cache_norms()
            elif isinstance(module, FactorizedQuantizer):
                module.cache_directions()

    def taps(self, states: Iterable[Tensor], *, acoustic: bool = True) -> Taps:
        """Return the taps; `states` are those from the input of the first layer to the tap."""
        mixes = acoustic and self.source == "weighted"
        weights_S111: Tensor | None = None
        if mixes:  # of four dimensions, so that the products are float32 without a cast
            weights_S111 = self.layer_logits.float().softmax(0)[:, None, None, None]
        mixed_BFH: Tensor | None = None
        for index, state_BFH in enumerate(states):
            if weights_S111 is not None:
                part_BFH = weights_S111[index] * state_BFH
                mixed_BFH = part_BFH if mixed_BFH is None else mixed_BFH.add_(part_BFH)
        semantic_BFH = self._pool(state_BFH.float())
        return Taps(semantic_BFH, None if mixed_BFH is None else self._pool(mixed_BFH))

    def semantic_codes(self, semantic_BFH: Tensor) -> Tensor:
        """Return codes_BF, the nearest centroids; the first wins a tie."""
        return self.centroids.encode(semantic_BFH.transpose(1, 2), 1)[:, 0]

    def semantic_latent(self, codes_BF: Tensor) -> Tensor:
        """Return z_BFD of the centroids."""
        z_BFD: Tensor = self.semantic_proj(self.centroids.codebooks_KND[0][codes_BF])
        return z_BFD

    def residual(
        self, taps: Taps, audio_BT: Tensor, codes_BF: Tensor, frames_B: Tensor | None = None
    ) -> Tensor:
        """Return residual_BFD, the input of the acoustic codebooks.

        No gradient flows from the acoustic branch to the semantic embedding. Only the source "conv"
        reads `audio_BT`, which must be zero after each row's frames.
        """
        if self.source == "same":
            word_BFH = self.centroids.codebooks_KND[0][codes_BF]
            residual_BFD: Tensor = self.acoustic_proj(taps.semantic_BFH - word_BFH)
            return residual_BFD
        if self.source == "conv":
            samples_B = None if frames_B is None else frames_B * self.hop_length
            latent_BFD: Tensor = self.encoder(audio_BT[:, None], samples_B).transpose(1, 2)
        else:
            latent_BFD = self.acoustic_proj(taps.mixed_BFH)
        return latent_BFD - self.semantic_latent(codes_BF).detach()

    def encode(
        self,
        states: Iterable[Tensor],
        audio_BT: Tensor,
        num_codebooks: int,
        frames_B: Tensor | None = None,
    ) -> Tensor:
        """Return codes_BKF; for the arguments see `taps` and `residual`."""
        taps = self.taps(states, acoustic=num_codebooks > 1)
        semantic_BF = self.semantic_codes(taps.semantic_BFH)
        if num_codebooks == 1:
            return semantic_BF[:, None]
        residual_BFD = self.residual(taps, audio_BT, semantic_BF, frames_B)
        if isinstance(self.quantizer, ResidualQuantizer):
            residual_BFD = residual_BFD.transpose(1, 2)
        acoustic_BKF = self.quantizer.encode(residual_BFD, num_codebooks - 1)
        return torch.cat([semantic_BF[:, None], acoustic_BKF], dim=1)

    def latent(self, codes_BKF: Tensor) -> Tensor:
        """Return z_BDF of any prefix of the codebooks."""
        z_BDF = self.semantic_latent(codes_BKF[:, 0]).transpose(1, 2)
        if codes_BKF.shape[1] == 1:
            return z_BDF
        acoustic = self.quantizer.decode(codes_BKF[:, 1:])
        if not isinstance(self.quantizer, ResidualQuantizer):
            acoustic = acoustic.transpose(1, 2)
        return z_BDF + acoustic

    def decode(self, codes_BKF: Tensor, frames_B: Tensor | None = None) -> Tensor:
        """Return audio_BT of hop_length samples per frame."""
        audio_B1T: Tensor = self.decoder(self.latent(codes_BKF), frames_B)
        return audio_B1T[:, 0]

    def _pool(self, state_BFH: Tensor) -> Tensor:
        """Return the means of groups of `pool_factor` features; an incomplete group is dropped."""
        if self.pool_factor == 1:
            return state_BFH
        batch, frames, width = state_BFH.shape
        groups = frames // self.pool_factor
        whole_BFH = state_BFH[:, : groups * self.pool_factor]
        return whole_BFH.reshape(batch, groups, self.pool_factor, width).mean(2)


def _acoustic_quantizer(config: HasrdConfig) -> ResidualQuantizer | ResidualFactorizedQuantizer:
    if config.acoustic_quantizer == "euclidean":
        return ResidualQuantizer(config.num_acoustic, config.codebook_size, config.dim)
    return ResidualFactorizedQuantizer(
        config.dim, config.num_acoustic, config.codebook_size, config.codebook_dim
    )
