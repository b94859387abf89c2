"""Quality functions for filters, well behaved and not."""

import ctypes
import os
import time

import numpy as np

from speechmill.pipeline.audio.samples import Samples


def peak(audio_T: Samples, rate: int) -> float:
    return float(np.abs(audio_T).max())


def nothing(audio_T: Samples, rate: int) -> float:
    return float("nan")


def broken(audio_T: Samples, rate: int) -> float:
    raise KeyError("no such weight")


def harmful(audio_T: Samples, rate: int) -> float:
    """Does by the length of a clip what native code has done to us; a whole second is harmless."""
    harm = _HARM.get(len(audio_T))
    if harm:
        harm()
    return 1.0


def _spin() -> None:
    while True:
        pass


_HARM = {
    1_600: lambda: ctypes.string_at(0),
    3_200: _spin,
    4_800: lambda: time.sleep(3600),
    6_400: lambda: bytearray(10**11),
    8_000: os.abort,
    9_600: lambda: os._exit(3),
}
HARMFUL_SECONDS = [samples / 16_000 for samples in _HARM]
