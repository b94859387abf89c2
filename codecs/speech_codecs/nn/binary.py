"""Binary spherical quantization (arXiv 2406.07548, section 3.1)."""

from math import sqrt

import torch
from torch import Tensor, nn


class BinarySphericalQuantizer(nn.Module):
    """Each latent becomes the corner of a hypercube in the unit sphere that its signs point to.

    A code is the signs as a number, first dimension most significant; a latent of exactly 0 counts
    as negative. There is no codebook to learn: nothing of this is in a checkpoint.
    """

    shift_D: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        shift_D = torch.arange(bits - 1, -1, -1, device="cpu")
        self.register_buffer("shift_D", shift_D, persistent=False)
        self.side = 1 / sqrt(bits)

    def encode(self, latents_BFD: Tensor) -> Tensor:
        """Return codes_BF."""
        return ((latents_BFD > 0).long() << self.shift_D).sum(-1)

    def decode(self, codes_BF: Tensor) -> Tensor:
        """Return corners_BFD, of length 1."""
        bits_BFD = (codes_BF[..., None] >> self.shift_D) & 1
        return (2 * bits_BFD - 1) * self.side
