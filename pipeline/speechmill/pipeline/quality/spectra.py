"""Distances between spectra, with torch alone, so that a training loop can use them too."""

from functools import cache

import torch
from torch import Tensor

FFT_SIZES = (512, 1024, 2048)  # of the STFT distance; hop = size / 4
_MEL_FFT, _MEL_HOP, _MELS = 1024, 256, 80
_FLOOR = 1e-5


def mel_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> float:
    """Mean absolute difference of natural-log mel magnitudes (80 bands, window 1024, hop 256)."""
    difference = _log_mel(reference, sample_rate) - _log_mel(estimate, sample_rate)
    return float(difference.abs().mean())


def stft_distance(reference: Tensor, estimate: Tensor) -> float:
    """Multi-resolution STFT distance: spectral convergence plus the L1 of log magnitudes.

    Yamamoto et al. 2020, arXiv 1910.11480, eq. 4 to 6; mean over three window sizes.
    """
    return sum(_one_resolution(reference, estimate, size) for size in FFT_SIZES) / len(FFT_SIZES)


def _one_resolution(reference: Tensor, estimate: Tensor, size: int) -> float:
    reference_FT = _magnitude(reference, size, size // 4)
    estimate_FT = _magnitude(estimate, size, size // 4)
    distance = torch.linalg.norm(reference_FT - estimate_FT)
    convergence = distance / torch.linalg.norm(reference_FT).clamp(min=_FLOOR)
    log_ratio_FT = reference_FT.clamp(min=_FLOOR).log() - estimate_FT.clamp(min=_FLOOR).log()
    return float(convergence + log_ratio_FT.abs().mean())


def _log_mel(audio_T: Tensor, sample_rate: int) -> Tensor:
    magnitude_FT = _magnitude(audio_T, _MEL_FFT, _MEL_HOP)
    return (_filters(sample_rate).T @ magnitude_FT).clamp(min=_FLOOR).log()


def _magnitude(audio_T: Tensor, size: int, hop: int) -> Tensor:
    """Pads with zeros, not by reflection, which would need half a window of audio."""
    window = torch.hann_window(size)
    padded_T = torch.nn.functional.pad(audio_T, (size // 2, size // 2 + hop))
    spectrum_FT = torch.stft(padded_T, size, hop, window=window, center=False, return_complex=True)
    return spectrum_FT.abs()


@cache
def _filters(sample_rate: int) -> Tensor:
    from torchaudio.functional import melscale_fbanks

    bins, highest = _MEL_FFT // 2 + 1, sample_rate / 2
    filters_FM: Tensor = melscale_fbanks(
        bins, 0.0, highest, _MELS, sample_rate, norm="slaney", mel_scale="slaney"
    )
    return filters_FM
