"""How close an estimate is to its reference; PESQ, STOI and ViSQOL by libraries of the field.

Both are float32 in about [-1, 1], of equal length, at `RATE`. A metric is None for a pair on which
it is not defined: PESQ finds no utterance in silence, STOI needs 0.4 s of speech, the STFT
distance is relative to the spectrum of the reference, which silence does not have, and SI-SDR to
the level of the estimate.
"""

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.imports import load_extra
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.spectra import mel_distance, stft_distance

_SILENCE = 1e-8  # mean power, -80 dB of full scale


def pesq(reference_T: Samples, estimate_T: Samples) -> float | None:
    """Wide-band PESQ (ITU-T P.862.2), MOS-LQO from 1.02 to 4.64."""
    library = load_extra("pesq", "evaluate")
    if _is_silent(reference_T):
        return None
    try:
        return _finite(library.pesq(RATE, reference_T, estimate_T, "wb"))
    except (library.PesqError, ValueError):  # ValueError: a silent estimate
        return None


def stoi(reference_T: Samples, estimate_T: Samples) -> float | None:
    """Short-time objective intelligibility (Taal et al. 2011), at most 1."""
    library = load_extra("pystoi", "evaluate")
    if _is_silent(reference_T):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return _finite(library.stoi(reference_T, estimate_T, RATE))
        # Too little speech for one segment, or too few samples for one frame of 26 ms.
        except (RuntimeWarning, IndexError, ValueError):
            return None


def visqol(reference_T: Samples, estimate_T: Samples) -> float | None:
    """ViSQOL v3 in speech mode (Chinen et al. 2020, arXiv 2004.09584), MOS-LQO from 1 to 5.

    A lattice network maps similarity to quality, as in Google's program. It takes about 0.8 s for
    each second of audio, without Numba.
    """
    if _is_silent(reference_T):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a silent estimate, for which it is NaN
        try:
            return _finite(_visqol().measure_from_arrays(reference_T, estimate_T, RATE).moslqo)
        except (ValueError, IndexError):  # too short for one patch
            return None


@cache
def _visqol() -> Any:
    load_extra("ai_edge_litert.interpreter", "visqol")
    api = load_extra("visqol", "visqol").VisqolApi()
    api.create(mode="speech", use_lattice_model=True)
    return api


def si_sdr(reference_T: Samples, estimate_T: Samples) -> float | None:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), dB.

    The formula is written here because torchmetrics, which has it too, takes 3 s to import: it
    imports matplotlib and transformers.
    """
    if _is_silent(reference_T) or _is_silent(estimate_T):
        return None
    reference, estimate = (torch.from_numpy(x_T).double() for x_T in (reference_T, estimate_T))
    eps = torch.finfo(torch.float64).eps  # keeps the ratio of an exact estimate finite
    scale = ((estimate * reference).sum() + eps) / ((reference**2).sum() + eps)
    target = scale * reference
    ratio = ((target**2).sum() + eps) / (((target - estimate) ** 2).sum() + eps)
    return _finite(10 * torch.log10(ratio))


def mel(reference_T: Samples, estimate_T: Samples) -> float:
    """Mean absolute difference of log-mel magnitudes."""
    return mel_distance(torch.from_numpy(reference_T), torch.from_numpy(estimate_T), RATE)


def stft(reference_T: Samples, estimate_T: Samples) -> float | None:
    """Multi-resolution STFT distance, in parts of the reference's spectrum."""
    if _is_silent(reference_T):
        return None
    return stft_distance(torch.from_numpy(reference_T), torch.from_numpy(estimate_T))


SIGNAL_METRICS: dict[str, Callable[[Samples, Samples], float | None]] = {
    "pesq": pesq,
    "stoi": stoi,
    "si_sdr": si_sdr,
    "mel": mel,
    "stft": stft,
    "visqol": visqol,
}


def match_length(estimate_T: Samples, num_samples: int) -> Samples:
    """Trim or pad with silence to the length of the reference: codecs return whole frames."""
    missing = max(0, num_samples - len(estimate_T))
    return np.pad(estimate_T[:num_samples], (0, missing)).astype(np.float32)


def _is_silent(audio_T: Samples) -> bool:
    """Whether it holds no more than the noise of its last bits."""
    return float(np.square(audio_T, dtype=np.float64).sum()) <= _SILENCE * len(audio_T)


def _finite(value: float | torch.Tensor) -> float | None:
    return float(value) if math.isfinite(value) else None
