"""Audio from frames by an inverse short-time Fourier transform: the head of Vocos."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.lengths import padding_mask

_SILENCE = 1e-11  # no sample that is kept has so small an envelope


class ISTFTHead(nn.Module):
    """Log-magnitude and phase of each frame, then overlap-add (Vocos, arXiv 2306.00814, 3.3).

    The window is a periodic Hann; F frames give exactly F x hop_length samples, because
    (n_fft - hop_length) / 2 are cut off at both ends.
    """

    window_N: Tensor

    def __init__(self, dim: int, n_fft: int, hop_length: int, max_magnitude: float = 100.0) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, n_fft + 2)
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.max_magnitude = max_magnitude
        self.register_buffer("window_N", torch.hann_window(n_fft), persistent=False)

    def forward(self, x_BFD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return audio_BT; each row is that of its first `lengths_B` frames alone.

        What a row holds behind its end is not defined, but finite.
        """
        log_magnitude_BFS, phase_BFS = self.proj(x_BFD).float().chunk(2, dim=-1)
        magnitude_BFS = log_magnitude_BFS.exp().clamp(max=self.max_magnitude)
        spectrum_BFS = torch.polar(magnitude_BFS, phase_BFS)
        frames_BFN = torch.fft.irfft(spectrum_BFS, self.n_fft) * self.window_N
        squared_BFN = self.window_N.square().expand(1, *frames_BFN.shape[1:])
        if lengths_B is not None:
            behind_BF1 = padding_mask(lengths_B, x_BFD.shape[1])[..., None]
            frames_BFN = frames_BFN.masked_fill(behind_BF1, 0)
            squared_BFN = squared_BFN.masked_fill(behind_BF1, 0)
        envelope_BT = self._overlap_add(squared_BFN).clamp(min=_SILENCE)
        return self._overlap_add(frames_BFN) / envelope_BT

    def _overlap_add(self, frames_BFN: Tensor) -> Tensor:
        """Return sum_BT without the ends that too few frames overlap in."""
        count, cut = frames_BFN.shape[1], (self.n_fft - self.hop_length) // 2
        size = (count - 1) * self.hop_length + self.n_fft
        sum_B11T = F.fold(
            frames_BFN.transpose(1, 2), (1, size), (1, self.n_fft), stride=(1, self.hop_length)
        )
        return sum_B11T[:, 0, 0, cut : size - cut]
