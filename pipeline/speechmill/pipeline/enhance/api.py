"""The interface of all enhancers, and how one is chosen and loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.errors import InputError, check_choice
from speechmill.pipeline.imports import load_function
from speechmill.pipeline.paths import PATH

# Imported when one is loaded: each needs libraries that the others do not.
_ENHANCERS = {
    "ul-unas": "onnx_stft:OnnxStft.ul_unas",
    "gtcrn": "gtcrn:Gtcrn",
    "onnx": "onnx_stft:OnnxStft",
    "spectral-gating": "spectral_gating:SpectralGating",
}


class Enhancer(Protocol):
    """Removes noise from speech, one clip at a time."""

    name: str
    revision: str  # digest of the algorithm and its weights
    sample_rate: int  # Hz, of input and output

    def enhance(self, audio_T: Samples) -> Samples:
        """Return float32 audio of the same length, aligned with `audio_T` to the sample."""
        ...


@dataclass
class EnhancerSettings:
    """Which enhancer, and with which weights."""

    name: str = "ul-unas"  # ul-unas | gtcrn | onnx | spectral-gating
    # Path, s3://, hf:// or https:// of the weights; gating has none.
    model: str | None = field(default=None, metadata=PATH)
    sample_rate: int = 16_000  # Hz; this and the settings below describe the model of `onnx`
    n_fft: int = 512  # samples
    hop: int = 256  # samples
    window: str = "hann"  # hann | sqrt_hann, periodic, before and after
    spectrum: str | None = None  # input [1, n_fft / 2 + 1, 1, 2]; default: the first
    enhanced: str | None = None  # output of the same shape; default: the first
    states: dict[str, str] | None = None  # output by input; default: the others, in their order

    def __post_init__(self) -> None:
        check_choice("enhancer.name", self.name, _ENHANCERS)
        if not self.model and self.name != "spectral-gating":
            raise InputError(
                f"enhancer.model is not set: {self.name} needs its weights, a path or URL; "
                "spectral-gating needs none"
            )


def load_enhancer(settings: EnhancerSettings) -> Enhancer:
    """Load an enhancer; raises `CheckpointError` for missing weights or those of another model."""
    name = f"speechmill.pipeline.enhance.{_ENHANCERS[settings.name]}"
    enhancer: Enhancer = load_function(name, "enhancer.name")(settings)
    return enhancer


def enhancer_revision(**algorithm: Any) -> str:
    """Digest of everything that decides the output, 16 hex digits."""
    return hashlib.sha256(json.dumps(algorithm, sort_keys=True).encode()).hexdigest()[:16]
