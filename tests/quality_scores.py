"""Quality functions for filters, well behaved and not."""

import numpy as np

from pipeline.source import Samples


def peak(audio_T: Samples, rate: int) -> float:
    return float(np.abs(audio_T).max())


def nothing(audio_T: Samples, rate: int) -> float:
    return float("nan")


def broken(audio_T: Samples, rate: int) -> float:
    raise KeyError("no such weight")
