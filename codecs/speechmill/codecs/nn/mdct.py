"""The modified discrete cosine transform: hop_length numbers for as many samples, and back."""

from math import pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.lengths import padding_mask


class MDCT(nn.Module):
    """Orthonormal, with a sine window of two hops (Princen and Bradley, ICASSP 1987).

    Frame f sees its own samples and half a hop on either side. The first and the last half hop of
    the audio are in one frame alone and come back with their mirror image on them.
    """

    basis_NS: Tensor

    def __init__(self, hop_length: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        with torch.device("cpu"):
            n_N = torch.arange(2 * hop_length, dtype=torch.float64)[:, None] + 0.5
            s_S = torch.arange(hop_length, dtype=torch.float64) + 0.5
            cosine_NS = torch.cos(pi / hop_length * (n_N + hop_length / 2) * s_S)
            window_N1 = torch.sin(pi / (2 * hop_length) * n_N)
            basis_NS = (sqrt(2 / hop_length) * window_N1 * cosine_NS).float()
        self.register_buffer("basis_NS", basis_NS, persistent=False)

    def forward(self, audio_BT: Tensor) -> Tensor:
        """Return spectrum_BFS of whole hops of audio, in float32; zeros stand beyond its ends."""
        with torch.autocast(audio_BT.device.type, enabled=False):
            padded_BT = F.pad(audio_BT.float(), (self.hop_length // 2, -(-self.hop_length // 2)))
            return padded_BT.unfold(-1, 2 * self.hop_length, self.hop_length) @ self.basis_NS

    def inverse(self, spectrum_BFS: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return audio_BT in float32; each row is that of its first `lengths_B` frames alone."""
        if lengths_B is not None:
            behind_BF1 = padding_mask(lengths_B, spectrum_BFS.shape[1])[..., None]
            spectrum_BFS = spectrum_BFS.masked_fill(behind_BF1, 0)
        with torch.autocast(spectrum_BFS.device.type, enabled=False):
            first_BFH, second_BFH = (spectrum_BFS.float() @ self.basis_NS.T).chunk(2, dim=-1)
        sum_BFH = F.pad(first_BFH, (0, 0, 0, 1)) + F.pad(second_BFH, (0, 0, 1, 0))
        return sum_BFH.flatten(1)[:, self.hop_length // 2 : -self.hop_length // 2]
