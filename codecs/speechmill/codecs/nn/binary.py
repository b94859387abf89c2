"""Binary spherical quantization (arXiv 2406.07548, section 3.1)."""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-6  # keeps the logarithm finite for a bit that never changes


class BinarySphericalQuantizer(nn.Module):
    """Rounds each latent to the corner of a hypercube in the unit sphere that has its signs.

    A code is the signs as a binary number, first dimension most significant; 0 counts as negative.
    It has neither a codebook nor weights.
    """

    shift_D: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        shift_D = torch.arange(bits - 1, -1, -1)
        self.register_buffer("shift_D", shift_D, persistent=False)
        self.side = 1 / sqrt(bits)

    def encode(self, latents_BFD: Tensor) -> Tensor:
        """Return codes_BF."""
        return ((latents_BFD > 0).long() << self.shift_D).sum(-1)

    def decode(self, codes_BF: Tensor) -> Tensor:
        """Return corners_BFD, of length 1."""
        bits_BFD = (codes_BF[..., None] >> self.shift_D) & 1
        return (2 * bits_BFD - 1) * self.side

    def quantize(self, unit_BFD: Tensor) -> Tensor:
        """Return corners_BFD of latents of length 1."""
        return torch.where(unit_BFD > 0, self.side, -self.side)

    def entropies(self, unit_BFD: Tensor, inverse_temperature: float) -> tuple[Tensor, Tensor]:
        """Return the mean entropy of a latent's code and the entropy of the mean code, in nats.

        Codes are soft, with independent bits: latent u has corner c with a probability proportional
        to exp(inverse_temperature u c) (section 3.3 of the paper).
        """
        logit_BFD = 2 * self.side * inverse_temperature * unit_BFD.float()
        chance_BFD = logit_BFD.sigmoid()
        each_BFD = F.softplus(logit_BFD) - chance_BFD * logit_BFD
        mean_D = chance_BFD.flatten(0, -2).mean(0).clamp(_EPS, 1 - _EPS)
        of_mean_D = torch.special.entr(mean_D) + torch.special.entr(1 - mean_D)
        return each_BFD.sum(-1).mean(), of_mean_D.sum()
