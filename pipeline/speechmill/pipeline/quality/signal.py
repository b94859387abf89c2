"""How close an estimate is to its reference, by the libraries that are standard in the field.

Both are float32 in about [-1, 1], of equal length, at `RATE`. A metric is None for a pair on which
it is not defined: PESQ finds no utterance in silence, STOI needs 0.4 s of speech.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch

from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.imports import load_extra
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.spectra import mel_distance, stft_distance


def pesq(reference_T: Samples, estimate_T: Samples) -> float | None:
    """Wide-band PESQ (ITU-T P.862.2), MOS-LQO from 1.02 to 4.64."""
    faults = load_extra("pesq", "evaluate").PesqError
    metric = load_extra("torchmetrics.functional.audio.pesq", "evaluate")
    if not reference_T.any():
        return None
    try:
        return _finite(
            metric.perceptual_evaluation_speech_quality(
                torch.from_numpy(estimate_T), torch.from_numpy(reference_T), RATE, "wb"
            )
        )
    except faults:
        return None


def stoi(reference_T: Samples, estimate_T: Samples) -> float | None:
    """Short-time objective intelligibility (Taal et al. 2011), at most 1."""
    load_extra("pystoi", "evaluate")
    metric = load_extra("torchmetrics.functional.audio.stoi", "evaluate")
    if not reference_T.any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return _finite(
                metric.short_time_objective_intelligibility(
                    torch.from_numpy(estimate_T), torch.from_numpy(reference_T), RATE
                )
            )
        except RuntimeWarning:  # too little speech for one segment
            return None


def si_sdr(reference_T: Samples, estimate_T: Samples) -> float | None:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), dB."""
    metric = load_extra("torchmetrics.functional.audio", "evaluate")
    if not reference_T.any():
        return None
    return _finite(
        metric.scale_invariant_signal_distortion_ratio(
            torch.from_numpy(estimate_T).double(), torch.from_numpy(reference_T).double()
        )
    )


def mel(reference_T: Samples, estimate_T: Samples) -> float:
    """Mean absolute difference of log-mel magnitudes."""
    return mel_distance(torch.from_numpy(reference_T), torch.from_numpy(estimate_T), RATE)


def stft(reference_T: Samples, estimate_T: Samples) -> float:
    """Multi-resolution STFT distance."""
    return stft_distance(torch.from_numpy(reference_T), torch.from_numpy(estimate_T))


SIGNAL_METRICS: dict[str, Callable[[Samples, Samples], float | None]] = {
    "pesq": pesq,
    "stoi": stoi,
    "si_sdr": si_sdr,
    "mel": mel,
    "stft": stft,
}


def match_length(estimate_T: Samples, num_samples: int) -> Samples:
    """Trim or pad with silence to the length of the reference: codecs return whole frames."""
    missing = max(0, num_samples - len(estimate_T))
    return np.pad(estimate_T[:num_samples], (0, missing)).astype(np.float32)


def _finite(value: torch.Tensor) -> float | None:
    return float(value) if math.isfinite(value) else None
