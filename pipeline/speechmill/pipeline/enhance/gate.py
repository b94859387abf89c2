"""Which clips are clean enough to stay unchanged: an enhancer can only harm them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from speechmill.pipeline.audio.samples import Samples, step_power
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.paths import PATH
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.dnsmos import dnsmos

_FRAME_SECONDS = 0.02
_SPEECH_PERCENTILE, _NOISE_PERCENTILE = 95, 10


@dataclass
class GateSettings:
    """A clip that reaches every set threshold stays unchanged; without thresholds, none does."""

    snr_db: float | None = None  # of `estimated_snr`
    dnsmos_ovr: float | None = None  # 1 to 5
    dnsmos_bak: float | None = None  # 1 to 5, of the background alone
    # Path or URL of sig_bak_ovr.onnx, for the two above.
    dnsmos: str | None = field(default=None, metadata=PATH)

    def __post_init__(self) -> None:
        rated = self.dnsmos_ovr is not None or self.dnsmos_bak is not None
        if rated and not self.dnsmos:
            raise InputError("gate.dnsmos is not set: path or URL of DNSMOS's sig_bak_ovr.onnx")


@dataclass(frozen=True, slots=True)
class GateResult:
    """Whether a clip is clean enough, and its measures."""

    clean: bool
    measures: dict[str, float]


def check_gate(audio_T: Samples, sample_rate: int, settings: GateSettings) -> GateResult:
    """Measure a clip wherever the settings have a threshold."""
    thresholds = {
        name: value
        for name in ("snr_db", "dnsmos_ovr", "dnsmos_bak")
        if (value := getattr(settings, name)) is not None
    }
    measures: dict[str, float] = {}
    if "snr_db" in thresholds:
        measures["snr_db"] = estimated_snr(audio_T, sample_rate)
    if settings.dnsmos and {"dnsmos_ovr", "dnsmos_bak"} & thresholds.keys():
        measures |= _dnsmos(audio_T, sample_rate, settings.dnsmos, thresholds)
    clean = bool(thresholds) and all(measures[n] >= limit for n, limit in thresholds.items())
    return GateResult(clean, {name: round(value, 3) for name, value in measures.items()})


def estimated_snr(audio_T: Samples, sample_rate: int) -> float:
    """Signal-to-noise ratio in dB, at most 100, estimated from the levels of frames of 20 ms.

    The 10th percentile stands for the noise, the 95th for speech and noise. This holds for clips
    with pauses and stationary noise.
    """
    size = max(1, round(_FRAME_SECONDS * sample_rate))
    noise, loud = np.percentile(step_power(audio_T, size), [_NOISE_PERCENTILE, _SPEECH_PERCENTILE])
    return float(
        10 * np.log10(max(loud - noise, 1e-10 * loud, 1e-20) / max(noise, 1e-10 * loud, 1e-20))
    )


def _dnsmos(
    audio_T: Samples, sample_rate: int, model: str, thresholds: dict[str, Any]
) -> dict[str, float]:
    import soxr

    at_rate_T = soxr.resample(audio_T, sample_rate, RATE) if sample_rate != RATE else audio_T
    rated = dnsmos(at_rate_T, model)
    found = {"dnsmos_ovr": rated.ovr, "dnsmos_bak": rated.bak}
    return {name: value for name, value in found.items() if name in thresholds}
