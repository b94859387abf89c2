"""Spectral gating, for where no weights are at hand: Sainburg's noisereduce, non-stationary."""

from importlib.metadata import version

import numpy as np

from speechmill.pipeline.audio.decoders import Samples
from speechmill.pipeline.enhance.api import revision_of
from speechmill.pipeline.imports import load_extra

_ALGORITHM = 1  # raised when the same audio comes out otherwise


class SpectralGating:
    """Lowers each band where it is not above its own average over the last seconds."""

    name = "spectral-gating"

    def __init__(self, sample_rate: int):
        self._noisereduce = load_extra("noisereduce", "enhance")
        self.sample_rate = sample_rate
        self.revision = revision_of(
            {
                "algorithm": _ALGORITHM,
                "name": self.name,
                "sample_rate": sample_rate,
                "noisereduce": version("noisereduce"),
            }
        )

    def enhance(self, audio_T: Samples) -> Samples:
        """Return audio of the same length, sample by sample."""
        if not audio_T.any():
            return audio_T  # where there is nothing, levels relative to it are not defined
        reduced_T = self._noisereduce.reduce_noise(
            y=audio_T, sr=self.sample_rate, stationary=False, n_jobs=1
        )
        return np.asarray(reduced_T, np.float32)
