"""Finite scalar quantization in groups of channels.

FSQ is arXiv 2309.15505 (section 3.1 and appendix A.1), grouped as in NVIDIA's spectral codecs
(arXiv 2406.05298): every group of channels is a separate codebook.
"""

from collections.abc import Sequence
from math import prod, tan

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.quantize import straight_through


class GroupedFSQ(nn.Module):
    """Rounds each channel to a level; the levels of a group make one code.

    The first channel of a group is the least significant digit. Nothing in it is trained. `eps`
    keeps the outermost levels away from the ends of the tanh.
    """

    levels_L1: Tensor
    bases_L1: Tensor
    scale_L1: Tensor
    offset_L1: Tensor
    shift_L1: Tensor

    def __init__(self, num_groups: int, levels: Sequence[int], eps: float = 1e-3) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.codebook_size = prod(levels)
        bases = [prod(levels[:i]) for i in range(len(levels))]
        scales = [(level - 1) / 2 * (1 - eps) for level in levels]
        offsets = [0.0 if level % 2 else 0.5 for level in levels]
        shifts = [tan(offset / scale) for offset, scale in zip(offsets, scales, strict=True)]
        self._tabulate(levels=levels, bases=bases)
        self._tabulate(scale=scales, offset=offsets, shift=shifts)

    def _tabulate(self, **tables: Sequence[float]) -> None:
        for name, values in tables.items():
            table_L1 = torch.tensor(values)[:, None]
            self.register_buffer(f"{name}_L1", table_L1, persistent=False)

    def bound(self, x_BDF: Tensor) -> Tensor:
        """Return y_BKLF, float32, which is rounded to the nearest integers."""
        batch, _, frames = x_BDF.shape
        x_BKLF = x_BDF.float().reshape(batch, self.num_groups, -1, frames)
        return self.scale_L1 * torch.tanh(x_BKLF + self.shift_L1) - self.offset_L1

    def quantize(self, x_BDF: Tensor) -> Tensor:
        """Return the decoded codes of `x_BDF`, with the gradient of `bound`."""
        y_BKLF = self.bound(x_BDF)
        rounded_BKLF = straight_through(y_BKLF, y_BKLF.round())
        return (rounded_BKLF / (self.levels_L1 // 2)).flatten(1, 2)

    def encode(self, x_BDF: Tensor) -> Tensor:
        """Return codes_BKF, int64."""
        digits_BKLF = self.bound(x_BDF).round().long() + self.levels_L1 // 2
        return (digits_BKLF * self.bases_L1).sum(2)

    def decode(self, codes_BKF: Tensor) -> Tensor:
        """Return x_BDF in [-1, 1]; groups that are missing in `codes_BKF` are zero."""
        half_L1 = self.levels_L1 // 2
        digits_BKLF = codes_BKF[:, :, None] // self.bases_L1 % self.levels_L1
        x_BDF = ((digits_BKLF - half_L1) / half_L1).flatten(1, 2)
        missing = self.num_groups * len(half_L1) - x_BDF.shape[1]
        return F.pad(x_BDF, (0, 0, 0, missing))
