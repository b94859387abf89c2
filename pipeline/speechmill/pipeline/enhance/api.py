"""What every enhancer offers, and how one is chosen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from speechmill.pipeline.audio.decoders import Samples
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.paths import PATH

KINDS = ("ul-unas", "gtcrn", "onnx", "spectral-gating")


class Enhancer(Protocol):
    """Takes noise out of speech, one clip at a time."""

    name: str
    revision: str  # digest of the algorithm and its weights
    sample_rate: int  # Hz, of what it takes and gives

    def enhance(self, audio_T: Samples) -> Samples:
        """Return float32 audio of the same length that lies on `audio_T` sample by sample."""
        ...


class StreamingEnhancer(Enhancer, Protocol):
    """An enhancer that can give a clip back while it still comes."""

    def stream(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Return the clip in other blocks, together equal to what `enhance` gives."""
        ...


@dataclass
class EnhancerSettings:
    """Which enhancer, and with which weights."""

    name: str = "ul-unas"  # ul-unas | gtcrn | onnx | spectral-gating
    # Path, s3://, hf:// or https:// of the weights; gating has none.
    model: str | None = field(default=None, metadata=PATH)
    sample_rate: int = 16_000  # Hz; this and what follows: of the model of `onnx`
    n_fft: int = 512
    hop: int = 256
    window: str = "hann"  # hann | sqrt_hann, periodic, before and after
    spectrum: str | None = None  # input [1, n_fft / 2 + 1, 1, 2]; default: the first
    enhanced: str | None = None  # output of the same shape; default: the first
    states: dict[str, str] | None = None  # output by input; default: the others, in their order

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise InputError(f"enhancer.name is {self.name!r}; use one of {', '.join(KINDS)}")
        if not self.model and self.name != "spectral-gating":
            raise InputError(
                f"enhancer.model is not set: {self.name} needs its weights, a path or URL; "
                "spectral-gating needs none"
            )


def revision_of(algorithm: dict[str, Any]) -> str:
    """Digest of everything that decides what comes out, 16 hex digits."""
    return hashlib.sha256(json.dumps(algorithm, sort_keys=True).encode()).hexdigest()[:16]


def describe(settings: EnhancerSettings) -> dict[str, Any]:
    """The settings without where the weights lie: these count by their content."""
    return {name: value for name, value in asdict(settings).items() if name != "model"}
