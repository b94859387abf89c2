"""Mel filter banks."""

import warnings

import torch
from torch import Tensor


def mel_bank(fft: int, bands: int, sample_rate: int) -> Tensor:
    """Return bank_SM, Slaney's filters on fft / 2 + 1 bins from 0 Hz to half the sample rate.

    A short FFT leaves some of many bands without a bin; they are zero.
    """
    from torchaudio.functional import melscale_fbanks

    with torch.device("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those that are zero
        bank_SM: Tensor = melscale_fbanks(
            fft // 2 + 1, 0, sample_rate / 2, bands, sample_rate, "slaney", "slaney"
        )
    return bank_SM  # as it is: torch.as_tensor would move it to a default device
