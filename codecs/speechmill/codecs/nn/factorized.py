"""Factorized vector quantization (DAC, arXiv 2306.06546, section 3.2; arXiv 2110.04627, 3.2)."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from speechmill.codecs.nn.frame_conv import FrameConv1d
from speechmill.codecs.nn.quantize import straight_through


class Quantized(NamedTuple):
    """A quantizer's output in training."""

    x_BFD: Tensor  # the output of `decode`, with the gradient of the input
    commitment_B: Tensor  # mean squared distance; its gradient moves the input
    codebook_B: Tensor  # the same; its gradient moves the codewords
    codes_KBF: Tensor  # of every stage, also of those that a row leaves out


class FactorizedQuantizer(nn.Module):
    """One codebook, searched by angle in a projection to few dimensions.

    The lowest index wins a tie. Everything is computed in float32.
    """

    is_exact = True
    directions_NC: Tensor | None

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_proj = weight_norm(FrameConv1d(dim, codebook_dim, 1, padding="valid"))
        self.out_proj = weight_norm(FrameConv1d(codebook_dim, dim, 1, padding="valid"))
        self.codebook = nn.Embedding(codebook_size, codebook_dim)
        self.register_buffer("directions_NC", None, persistent=False)

    def cache_directions(self) -> None:
        """Normalise the codewords once, for inference: the codebook must not change."""
        self.directions_NC = F.normalize(self.codebook.weight.detach(), dim=-1)

    def encode(self, x_BFD: Tensor) -> Tensor:
        """Return codes_BF."""
        return self.cosines(x_BFD).argmax(-1)

    def quantize(self, x_BFD: Tensor) -> Quantized:
        """Return the codeword's projection, straight through, and both losses of each row."""
        with torch.autocast(x_BFD.device.type, enabled=False):
            latent_BFC = self.in_proj(x_BFD.float())
            codes_BF = self.encode(x_BFD.detach())
            word_BFC = self.codebook(codes_BF)
            chosen_BFC = straight_through(latent_BFC, word_BFC)
            commitment_B = (latent_BFC - word_BFC.detach()).square().mean((1, 2))
            codebook_B = (word_BFC - latent_BFC.detach()).square().mean((1, 2))
            x_BFD = self.out_proj(chosen_BFC)
            return Quantized(x_BFD, commitment_B, codebook_B, codes_BF[None])

    def cosines(self, x_BFD: Tensor) -> Tensor:
        """Return the cosine of the angle to every codeword, of shape (B, F, codebook size)."""
        with torch.autocast(x_BFD.device.type, enabled=False):
            latent_BFC: Tensor = self.in_proj(x_BFD.float())
            directions_NC = self.directions_NC
            if directions_NC is None:
                directions_NC = F.normalize(self.codebook.weight, dim=-1)
            return F.normalize(latent_BFC, dim=-1) @ directions_NC.T

    def decode(self, codes_BF: Tensor) -> Tensor:
        """Return x_BFD, the projection of the codewords, with their lengths."""
        with torch.autocast(codes_BF.device.type, enabled=False):
            x_BFD: Tensor = self.out_proj(self.codebook(codes_BF))
            return x_BFD


class ResidualFactorizedQuantizer(nn.Module):
    """Stages that each quantize the residual of the stages before."""

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            FactorizedQuantizer(dim, codebook_size, codebook_dim) for _ in range(num_codebooks)
        )

    def encode(self, x_BFD: Tensor, num_codebooks: int) -> Tensor:
        """Return codes_BKF of the first `num_codebooks` stages, at least one."""
        residual_BFD, codes_KBF = x_BFD.float(), []
        for stage in self._first(num_codebooks):
            codes_KBF.append(stage.encode(residual_BFD))
            residual_BFD = residual_BFD - stage.decode(codes_KBF[-1])
        return torch.stack(codes_KBF, dim=1)

    def quantize(self, x_BFD: Tensor, depth_B: Tensor) -> Quantized:
        """Return the sum of each row's first `depth_B` stages, and the sum of their losses."""
        residual_BFD = x_BFD.float()
        parts, codes = [], []
        for index, stage in enumerate(self._first(len(self.stages))):
            kept_B = (index < depth_B).float()
            part = stage.quantize(residual_BFD)
            residual_BFD = residual_BFD - part.x_BFD
            kept_BFD = part.x_BFD * kept_B[:, None, None]
            parts.append((kept_BFD, part.commitment_B * kept_B, part.codebook_B * kept_B))
            codes.append(part.codes_KBF)
        x, commitment, codebook = (torch.stack(kind).sum(0) for kind in zip(*parts, strict=True))
        return Quantized(x, commitment, codebook, torch.cat(codes))

    def decode(self, codes_BKF: Tensor) -> Tensor:
        """Return x_BFD of the sum over any prefix of the stages, at least one."""
        stages = zip(self._first(codes_BKF.shape[1]), codes_BKF.unbind(1), strict=True)
        parts = [stage.decode(codes_BF) for stage, codes_BF in stages]
        return torch.stack(parts).sum(0)

    def _first(self, num_codebooks: int) -> list[FactorizedQuantizer]:
        return cast(list[FactorizedQuantizer], list(self.stages[:num_codebooks]))
