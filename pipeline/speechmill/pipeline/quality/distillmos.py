"""DistillMOS: a network predicts how listeners would rate speech, without a reference.

Stahl, Gamper: "Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech
Quality Assessment", ICASSP 2025, arXiv 2502.05356. Network and weights are those of the package
`distillmos` (MIT).
"""

from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from statistics import fmean
from typing import Any

import numpy as np
import torch

from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.imports import load_extra
from speechmill.pipeline.quality import RATE

_WINDOW = 122_880  # samples of one input of the network: 7.68 s


def distillmos(audio_T: Samples) -> float:
    """Return the mean opinion score of a clip at 16 kHz, from 1 to 5.

    It is the mean over windows of 7.68 s, at most 1 s apart; a shorter clip is padded with zeros.
    """
    with torch.inference_mode():
        # The package rates all windows at once, which takes 70 MB for each second of audio.
        return fmean(float(_network()(window_T[None])) for window_T in _windows(audio_T))


def _windows(audio_T: Samples) -> list[torch.Tensor]:
    padded_T = np.pad(audio_T, (0, max(0, _WINDOW - len(audio_T)))).astype(np.float32)
    spare = len(padded_T) - _WINDOW
    starts = (np.linspace(0, 1, -(-spare // RATE) + 1) * spare).astype(int)
    return [torch.from_numpy(padded_T[start : start + _WINDOW]) for start in starts]


@cache
def _network() -> Any:
    library = load_extra("distillmos", "distillmos")
    with redirect_stdout(StringIO()):  # it prints the path of its weights
        return library.ConvTransformerSQAModel(segmenting_in_forward=False).eval()
