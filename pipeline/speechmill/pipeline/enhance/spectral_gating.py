"""Spectral gating, which needs no weights: Sainburg's noisereduce, non-stationary."""

from importlib.metadata import version

import numpy as np

from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.enhance.api import EnhancerSettings, enhancer_revision
from speechmill.pipeline.imports import load_extra

_ALGORITHM = 1  # raised when the same audio gives another result


class SpectralGating:
    """Attenuates each band while it is not above its own average over the last seconds."""

    name = "spectral-gating"

    def __init__(self, settings: EnhancerSettings):
        self._noisereduce = load_extra("noisereduce", "enhance")
        self.sample_rate = settings.sample_rate
        self.revision = enhancer_revision(
            algorithm=_ALGORITHM,
            name=self.name,
            sample_rate=self.sample_rate,
            noisereduce=version("noisereduce"),
        )

    def enhance(self, audio_T: Samples) -> Samples:
        """Return audio of the same length, aligned to the sample."""
        if not audio_T.any():
            return audio_T  # levels relative to silence are not defined
        reduced_T = self._noisereduce.reduce_noise(
            y=audio_T, sr=self.sample_rate, stationary=False, n_jobs=1
        )
        return np.asarray(reduced_T, np.float32)
