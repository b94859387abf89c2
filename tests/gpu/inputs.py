"""The codecs that are measured, at full size or tiny, and real speech; nothing here needs torch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile
import soxr

from tests.gpu.kit import DRY_RUN, ROOT

_AUDIO_SUFFIXES = {".flac", ".wav", ".ogg", ".mp3", ".opus"}
_TINY = {
    "focalcodec-50hz": "focalcodec 25hz",
    "focalcodec-50hz-4k-causal": "focalcodec causal 25hz",
    "simwhisper-16k": "simwhisper",
    "dualcodec-12hz": "dualcodec",
    "hasrd-2k": "hasrd default",
    "pure-4k": "pure",
}


def arguments_of(name: str) -> dict[str, Any]:
    """Return what `load_codec` takes: the full size, or in a dry run a tiny network of its kind."""
    if name == "pure-16k-small":
        return {"name": name}
    if DRY_RUN:
        from tests.codecs.cases import CASES  # imports torch and every codec

        case = CASES[_TINY[name]]
        return {"name": case.name, "checkpoint": "untrained", **case.arguments}
    return {"name": name, "checkpoint": "untrained"}


def sample_speech(rate: int) -> Iterator[np.ndarray]:
    """Yield the recordings of samples/, the first channel of each, at `rate` Hz."""
    for path in sorted((ROOT / "samples").rglob("*")):
        if path.suffix in _AUDIO_SUFFIXES:
            audio_TC, found = soundfile.read(path, always_2d=True, dtype="float32")
            yield soxr.resample(audio_TC[:, 0], found, rate)
