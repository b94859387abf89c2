"""Between waveforms and spectra: mel filters, the MDCT, the STFT, and the head of Vocos."""

import warnings
from math import pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.masks import padding_mask

_SILENCE = 1e-11  # less than the window envelope of any sample that is kept


def mel_bank(fft: int, bands: int, sample_rate: int) -> Tensor:
    """Return bank_SM, Slaney's filters on fft / 2 + 1 bins from 0 Hz to half the sample rate.

    If the FFT is short for the number of bands, some contain no bin; these are zero.
    """
    from torchaudio.functional import melscale_fbanks

    with torch.device("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about bands that are zero
        bank_SM: Tensor = melscale_fbanks(
            fft // 2 + 1, 0, sample_rate / 2, bands, sample_rate, "slaney", "slaney"
        )
    return bank_SM  # not torch.as_tensor, which would move it to a default device


class MDCT(nn.Module):
    """The orthonormal MDCT with a sine window of two hops (Princen and Bradley, ICASSP 1987).

    Frame f covers its own samples and half a hop on each side. The first and the last half hop of
    the audio are in one frame only, so the inverse adds their mirror image to them.
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
        """Return spectrum_BFS of whole hops of audio, in float32; zeros pad the audio."""
        with torch.autocast(audio_BT.device.type, enabled=False):
            padded_BT = F.pad(audio_BT.float(), (self.hop_length // 2, -(-self.hop_length // 2)))
            return padded_BT.unfold(-1, 2 * self.hop_length, self.hop_length) @ self.basis_NS

    def inverse(self, spectrum_BFS: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return audio_BT in float32; each row is that of its first `lengths_B` frames alone."""
        if lengths_B is not None:
            mask_BF1 = padding_mask(lengths_B, spectrum_BFS.shape[1])[..., None]
            spectrum_BFS = spectrum_BFS.masked_fill(mask_BF1, 0)
        with torch.autocast(spectrum_BFS.device.type, enabled=False):
            first_BFH, second_BFH = (spectrum_BFS.float() @ self.basis_NS.T).chunk(2, dim=-1)
        sum_BFH = F.pad(first_BFH, (0, 0, 0, 1)) + F.pad(second_BFH, (0, 0, 1, 0))
        return sum_BFH.flatten(1)[:, self.hop_length // 2 : -self.hop_length // 2]


class STFT(nn.Module):
    """The short-time Fourier transform with a periodic Hann window, and its inverse.

    F hops of audio give F frames, and F frames give F x hop_length samples. The first and the last
    window reach (n_fft - hop_length) / 2 samples beyond the audio.
    """

    window_N: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.outside = (n_fft - hop_length) // 2
        self.register_buffer("window_N", torch.hann_window(n_fft), persistent=False)

    def forward(self, audio_BT: Tensor) -> Tensor:
        """Return spectrum_BFS of whole hops of audio; zeros pad the audio."""
        padded_BT = F.pad(audio_BT, (self.outside, self.n_fft - self.hop_length - self.outside))
        windows_BFN = padded_BT.unfold(-1, self.n_fft, self.hop_length) * self.window_N
        spectrum_BFS: Tensor = torch.fft.rfft(windows_BFN)
        return spectrum_BFS

    def inverse(self, spectrum_BFS: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return audio_BT; each row is that of its first `lengths_B` frames alone."""
        frames_BFN = torch.fft.irfft(spectrum_BFS, self.n_fft) * self.window_N
        squared_BFN = self.window_N.square().expand(1, *frames_BFN.shape[1:])
        if lengths_B is not None:
            mask_BF1 = padding_mask(lengths_B, frames_BFN.shape[1])[..., None]
            frames_BFN = frames_BFN.masked_fill(mask_BF1, 0)
            squared_BFN = squared_BFN.masked_fill(mask_BF1, 0)
        envelope_BT = self._overlap_add(squared_BFN).clamp(min=_SILENCE)
        return self._overlap_add(frames_BFN) / envelope_BT

    def _overlap_add(self, frames_BFN: Tensor) -> Tensor:
        """Return sum_BT without the ends, where too few frames overlap."""
        count = frames_BFN.shape[1]
        size = (count - 1) * self.hop_length + self.n_fft
        sum_B11T = F.fold(
            frames_BFN.transpose(1, 2), (1, size), (1, self.n_fft), stride=(1, self.hop_length)
        )
        return sum_B11T[:, 0, 0, self.outside : self.outside + count * self.hop_length]


class ISTFTHead(nn.Module):
    """Log-magnitude and phase of each frame, then the inverse STFT (arXiv 2306.00814, 3.3)."""

    def __init__(self, dim: int, n_fft: int, hop_length: int, max_magnitude: float = 100.0) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, n_fft + 2)
        self.max_magnitude = max_magnitude
        self.stft = STFT(n_fft, hop_length)

    def forward(self, x_BFD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return audio_BT; each row is that of its first `lengths_B` frames alone."""
        log_magnitude_BFS, phase_BFS = self.proj(x_BFD).float().chunk(2, dim=-1)
        magnitude_BFS = log_magnitude_BFS.exp().clamp(max=self.max_magnitude)
        return self.stft.inverse(torch.polar(magnitude_BFS, phase_BFS), lengths_B)
