"""Residual vector quantization (SoundStream, arXiv 2107.03312, section III-C)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """Return `quantized`, with the gradient of `x` (arXiv 1308.3432)."""
    return x + (quantized - x).detach()


class Stages(NamedTuple):
    """Frames through all stages, for training; rows M are the frames of all utterances."""

    words_KMD: Tensor  # the codeword of each stage
    inputs_KMD: Tensor  # the vector that each stage searched for, with the input's gradient
    codes_KM: Tensor


class ResidualQuantizer(nn.Module):
    """Stages of full-dimension codebooks; each stage quantizes what the stages before it left.

    The search is Euclidean; the lowest index wins a tie. Codebooks are buffers because they are
    trained by moving averages, not by gradients. The first `num_searched` stages search a separate
    table, because their codewords represent other vectors than those that are searched for.
    """

    codebooks_KND: Tensor
    searched_SND: Tensor
    norms_KN: Tensor | None

    def __init__(
        self, num_codebooks: int, codebook_size: int, dim: int, num_searched: int = 0
    ) -> None:
        super().__init__()
        self.register_buffer("codebooks_KND", torch.zeros(num_codebooks, codebook_size, dim))
        if num_searched:
            searched_SND = torch.zeros(num_searched, codebook_size, dim)
            self.register_buffer("searched_SND", searched_SND)
        self.num_searched = num_searched
        self.register_buffer("norms_KN", None, persistent=False)

    def cache_norms(self) -> None:
        """Compute the codewords' norms once, for inference: the codebooks must not change."""
        tables = [self.searched(stage) for stage in range(len(self.codebooks_KND))]
        self.norms_KN = torch.stack(tables).square().sum(-1)

    def searched(self, stage: int) -> Tensor:
        """Return table_ND, in which a stage searches the nearest row."""
        tables = self.searched_SND if stage < self.num_searched else self.codebooks_KND
        return tables[stage]

    def encode(self, x_BDF: Tensor, num_codebooks: int) -> Tensor:
        """Return codes_BKF of the first `num_codebooks` stages; computed in float32."""
        batch, dim, frames = x_BDF.shape
        residual_MD = x_BDF.float().transpose(1, 2).reshape(-1, dim)
        codes_KM = []
        for stage in range(num_codebooks):
            codes_KM.append(self.distances(residual_MD, stage).argmin(-1))
            residual_MD = residual_MD - self.codebooks_KND[stage][codes_KM[-1]]
        return torch.stack(codes_KM).view(-1, batch, frames).transpose(0, 1).contiguous()

    def stages(self, x_MD: Tensor) -> Stages:
        """Return every stage's input and codeword; no gradient passes from stage to stage."""
        words, inputs, codes = [], [x_MD], []
        for stage, codebook_ND in enumerate(self.codebooks_KND):
            codes.append(self.distances(inputs[-1].detach(), stage).argmin(-1))
            words.append(codebook_ND[codes[-1]])
            inputs.append(inputs[-1] - words[-1])
        return Stages(torch.stack(words), torch.stack(inputs[:-1]), torch.stack(codes))

    def distances(self, residual_MD: Tensor, stage: int) -> Tensor:
        """Return distance_MN: |r - b|^2 - |r|^2 for every codeword b.

        |r|^2 is the same for all codewords; adding such a large term would lose digits.
        """
        codebook_ND = self.searched(stage)
        norms_KN = self.norms_KN
        norm_N = codebook_ND.square().sum(-1) if norms_KN is None else norms_KN[stage]
        with torch.autocast(residual_MD.device.type, enabled=False):
            return torch.addmm(norm_N, residual_MD, codebook_ND.T, alpha=-2)

    def decode(self, codes_BKF: Tensor) -> Tensor:
        """Return x_BDF, the sum of the codewords of any prefix of the stages."""
        words = [self.codebooks_KND[k][codes_BF] for k, codes_BF in enumerate(codes_BKF.unbind(1))]
        return torch.stack(words).sum(0).transpose(1, 2)
