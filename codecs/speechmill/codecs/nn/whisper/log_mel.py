"""Whisper's log-mel spectrogram (arXiv 2212.04356, section 2.2) without the padding to 30 s."""

from math import log
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.whisper.sizes import MEL_HOP, SAMPLE_RATE, WINDOW_SAMPLES

LengthT = TypeVar("LengthT", int, Tensor)

_FLOOR = 1e-10
_RANGE = 8.0  # decades below a clip's peak
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0  # the Slaney scale is linear below, logarithmic above
_OCTAVE = log(6.4) / 27.0


class LogMel(nn.Module):
    """audio_BT to mel_BMT at 100 Hz: each row as in a window of 30 s, padded with silence."""

    filters_MS: Tensor
    window_N: Tensor

    def __init__(self, num_mels: int, n_fft: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("filters_MS", slaney_filters(num_mels, n_fft), persistent=False)
        window_N = torch.hann_window(n_fft)
        self.register_buffer("window_N", window_N, persistent=False)

    def forward(self, audio_BT: Tensor) -> Tensor:
        """Return mel_BMT; rows must be zero after their ends and no longer than 30 s.

        The audio's last samples reach two more columns than the audio has, but never more than
        3000: at the end of the window the audio is mirrored.
        """
        size = min(WINDOW_SAMPLES, (num_columns(audio_BT.shape[-1]) + 2) * MEL_HOP)
        audio_BT = F.pad(audio_BT, (0, size - audio_BT.shape[-1]))
        with torch.autocast(audio_BT.device.type, enabled=False):
            spectrum_BST = torch.stft(
                audio_BT, self.n_fft, MEL_HOP, window=self.window_N, return_complex=True
            )
            power_BST = torch.view_as_real(spectrum_BST[..., :-1]).square().sum(-1)
            mel_BMT = (self.filters_MS @ power_BST).clamp(min=_FLOOR).log10()
        peak_B11 = mel_BMT.amax((1, 2), keepdim=True)
        return (torch.maximum(mel_BMT, peak_B11 - _RANGE) + 4) / 4


def num_columns(samples: LengthT) -> LengthT:
    """Return the number of mel columns of clips of `samples` samples, rounded up."""
    return (samples + MEL_HOP - 1) // MEL_HOP


def slaney_filters(num_mels: int, n_fft: int) -> Tensor:
    """Return filters_MS: triangles on Slaney's mel scale up to 8 kHz, all of the same area."""
    top_mel = _BREAK_MEL + log(SAMPLE_RATE / 2 / _BREAK_HZ) / _OCTAVE
    mel_E = torch.linspace(0, top_mel, num_mels + 2, dtype=torch.float64)
    linear_E = mel_E * (_BREAK_HZ / _BREAK_MEL)
    curved_E = _BREAK_HZ * torch.exp(_OCTAVE * (mel_E - _BREAK_MEL))
    edge_E = torch.where(mel_E < _BREAK_MEL, linear_E, curved_E)[:, None]
    bins = n_fft // 2 + 1
    bin_S = torch.linspace(0, SAMPLE_RATE / 2, bins, dtype=torch.float64)
    rising_MS = (bin_S - edge_E[:-2]) / (edge_E[1:-1] - edge_E[:-2])
    falling_MS = (edge_E[2:] - bin_S) / (edge_E[2:] - edge_E[1:-1])
    triangle_MS = torch.minimum(rising_MS, falling_MS).clamp(min=0)
    return (triangle_MS * 2 / (edge_E[2:] - edge_E[:-2])).float()
