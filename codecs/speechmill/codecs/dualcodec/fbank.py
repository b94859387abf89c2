"""Kaldi's log mel filter bank, normalised per clip and mel bin: the input of w2v-BERT 2.0."""

from math import log
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.dualcodec.config import (
    FBANK_HOP,
    FBANK_STACK,
    FBANK_WINDOW,
    SEMANTIC_RATE,
)
from speechmill.codecs.nn.masks import mask_padding_frames, padding_mask

CountT = TypeVar("CountT", int, Tensor)

_FFT = 512
_LOWEST = 20.0  # Hz
_PCM_SCALE = 32_768
_PREEMPHASIS = 0.97
_POVEY_POWER = 0.85
_FLOOR = 2.0**-23
_VARIANCE_FLOOR = 1e-7
_FILL = 1.0  # the authors' extractor pads an odd number of frames with it


class StackedFbank(nn.Module):
    """audio_BT at 16 kHz, float64, to features_BSD at 50 Hz, each of two fbank frames.

    It computes in float64, as the authors' extractor mostly does: compared with the network this
    costs nothing, and a batch differs from its single clips by far less than float32 resolves.
    """

    window_W: Tensor
    mel_NM: Tensor

    def __init__(self, num_mel_bins: int) -> None:
        super().__init__()
        hann_W = torch.hann_window(FBANK_WINDOW, periodic=False, dtype=torch.float64)
        self.register_buffer("window_W", hann_W**_POVEY_POWER, persistent=False)
        self.register_buffer("mel_NM", _mel_filters(num_mel_bins), persistent=False)

    def forward(self, audio_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return features_BSD, float32, of ceil(fbank frames / 2) frames."""
        log_mel_BFM = self._log_mel(audio_BT * _PCM_SCALE)
        frames_B = None if lengths_B is None else fbank_windows(lengths_B)
        normal_BFM = _normalise(log_mel_BFM, frames_B).float()
        padded_BFM = F.pad(normal_BFM, (0, 0, 0, -normal_BFM.shape[1] % FBANK_STACK), value=_FILL)
        batch, windows, bins = padded_BFM.shape
        return padded_BFM.view(batch, windows // FBANK_STACK, FBANK_STACK * bins)

    def _log_mel(self, pcm_BT: Tensor) -> Tensor:
        frames_BFW = pcm_BT.unfold(-1, FBANK_WINDOW, FBANK_HOP)
        frames_BFW = frames_BFW - frames_BFW.mean(-1, keepdim=True)
        before_BFW = torch.cat([frames_BFW[..., :1], frames_BFW[..., :-1]], -1)
        frames_BFW = (frames_BFW - _PREEMPHASIS * before_BFW) * self.window_W
        spectrum_BFN = torch.fft.rfft(frames_BFW, _FFT)
        power_BFN = spectrum_BFN.real.square() + spectrum_BFN.imag.square()
        mel_BFM: Tensor = power_BFN @ self.mel_NM
        return mel_BFM.clamp(min=_FLOOR).log()


def fbank_windows(length: CountT) -> CountT:
    """Return how many whole windows fit into `length` samples at 16 kHz, at least 400."""
    return (length - FBANK_WINDOW) // FBANK_HOP + 1


def _normalise(x_BFM: Tensor, frames_B: Tensor | None) -> Tensor:
    """Return x_BFM of mean 0 and (unbiased) variance 1 over each row's own frames."""
    if frames_B is None:
        count_B11 = torch.tensor(x_BFM.shape[1], device=x_BFM.device).view(1, 1, 1)
    else:
        count_B11, x_BFM = frames_B[:, None, None], mask_padding_frames(x_BFM, frames_B)
    x_BFM = x_BFM - x_BFM.sum(1, keepdim=True) / count_B11
    if frames_B is not None:
        x_BFM = mask_padding_frames(x_BFM, frames_B)
    variance_B1M = x_BFM.square().sum(1, keepdim=True) / (count_B11 - 1).clamp(min=1)
    x_BFM = x_BFM / (variance_B1M + _VARIANCE_FLOOR).sqrt()
    if frames_B is not None:
        x_BFM = x_BFM.masked_fill(padding_mask(frames_B, x_BFM.shape[1])[..., None], _FILL)
    return x_BFM


def _mel_filters(num_mel_bins: int) -> Tensor:
    """Return mel_NM: triangles on Kaldi's mel scale, over the bins of the power spectrum."""
    bins_N = torch.arange(_FFT // 2 + 1, dtype=torch.float64) * SEMANTIC_RATE / _FFT
    mel_N1 = 1127 * torch.log1p(bins_N / 700)[:, None]
    lowest, highest = (1127 * log(1 + hertz / 700) for hertz in (_LOWEST, SEMANTIC_RATE / 2))
    edges_M = torch.linspace(lowest, highest, num_mel_bins + 2, dtype=torch.float64)
    left_M, centre_M, right_M = edges_M[:-2], edges_M[1:-1], edges_M[2:]
    rising_NM = (mel_N1 - left_M) / (centre_M - left_M)
    falling_NM = (right_M - mel_N1) / (right_M - centre_M)
    return torch.minimum(rising_NM, falling_NM).clamp(min=0)
