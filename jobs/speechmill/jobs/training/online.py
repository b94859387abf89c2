"""Enhanced audio that is computed during training, by a frozen enhancer."""

import numpy as np
import soxr
import torch
from torch import Tensor

from speechmill.codecs.errors import CheckpointError
from speechmill.jobs.training.config import Enhancement, TrainConfig
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.enhance.api import Enhancer, load_enhancer
from speechmill.pipeline.quality.signal import match_length


class OnlineEnhancer:
    """An enhancer for batches at the codec's sample rate; without a gradient, in float32.

    Each row is enhanced on the CPU, at the enhancer's own rate.
    """

    def __init__(self, enhancer: Enhancer):
        self._enhancer = enhancer
        self.sample_rate = enhancer.sample_rate  # Hz, of the batches

    @torch.no_grad()
    def __call__(self, audio_BT: Tensor) -> Tensor:
        """Return audio_BT of the same length, in time with the given one."""
        if not len(audio_BT):
            return audio_BT
        with torch.autocast("cpu", enabled=False):
            rows = [self._enhance(audio_T) for audio_T in audio_BT.detach().float().cpu().numpy()]
        return torch.from_numpy(np.stack(rows)).to(audio_BT.device)

    def _enhance(self, audio_T: Samples) -> Samples:
        ours, theirs = self.sample_rate, self._enhancer.sample_rate
        if ours == theirs:
            return self._enhancer.enhance(audio_T)
        enhanced_T = self._enhancer.enhance(soxr.resample(audio_T, ours, theirs))
        return match_length(soxr.resample(enhanced_T, theirs, ours), len(audio_T))


def online_enhancer(config: TrainConfig, revision: str | None) -> OnlineEnhancer | None:
    """Return the enhancer of a run, or None if its enhancement is not online.

    Raises `CheckpointError` if it has another revision than the driver found; None skips the check.
    """
    if config.enhancement != Enhancement.ONLINE:
        return None
    assert config.enhancer
    enhancer = load_enhancer(config.enhancer)
    if revision not in (None, enhancer.revision):
        raise CheckpointError(
            f"{enhancer.name} is revision {enhancer.revision} on a worker, but {revision} in the "
            "driver; give every node the same weights"
        )
    return OnlineEnhancer(enhancer)
