"""Held-out clips, and the distance of a codec's reconstructions from them."""

from collections.abc import Iterator
from statistics import fmean

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.recipe import Recipe
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.stream import intact_samples
from speechmill.pipeline.audio.resample import decode_audio
from speechmill.pipeline.audio.samples import Samples, to_float
from speechmill.pipeline.errors import InputError, SampleError
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.signal import mel, si_sdr
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.describe import audio_suffix

MEL = "mel distance of evaluate, at 16 kHz"  # the metric that chooses the best weights


class Validation:
    """The first clips of the validation shards, the same in every run."""

    def __init__(self, config: TrainConfig, recipe: Recipe, storage: Storage):
        self.sample_rate = recipe.sample_rate
        self.clips = list(_clips(config, recipe, storage))
        if not self.clips:
            raise InputError(
                f"no clip in {', '.join(config.validation.shards)} can be decoded; give other "
                "validation.shards, or none to train without validation"
            )

    @torch.no_grad()
    def measure(
        self, recipe: Recipe, device: torch.device
    ) -> tuple[dict[str, float], list[Tensor]]:
        """Return the mean of each metric over the clips, and the reconstructions.

        The metrics are those of `speechmill evaluate`. SI-SDR is missing if every clip is silent.
        """
        recipe.eval()
        audio = [_reconstruct(recipe, clip_T, device) for clip_T in self.clips]
        recipe.train()
        pairs = [
            (self._at_metric_rate(clip_T), self._at_metric_rate(ours_T))
            for clip_T, ours_T in zip(self.clips, audio, strict=True)
        ]
        values = {"mel": fmean(mel(*pair) for pair in pairs)}
        defined = [value for pair in pairs if (value := si_sdr(*pair)) is not None]
        return values | ({"si_sdr": fmean(defined)} if defined else {}), audio

    def _at_metric_rate(self, audio_T: Tensor) -> Samples:
        resampled_T: Samples = soxr.resample(audio_T.numpy(), self.sample_rate, RATE, "VHQ")
        return resampled_T


def _reconstruct(recipe: Recipe, clip_T: Tensor, device: torch.device) -> Tensor:
    padded_T = F.pad(clip_T, (0, -len(clip_T) % recipe.hop_length))
    audio_T = recipe.reconstruct(padded_T[None].to(device))[0].float().cpu()
    return audio_T[: len(clip_T)]


def _clips(config: TrainConfig, recipe: Recipe, storage: Storage) -> Iterator[Tensor]:
    settings = config.validation
    num_samples = round(settings.seconds * recipe.sample_rate)
    found = 0
    max_bytes = config.limits.member_bytes
    for sample in intact_samples(settings.shards, storage, max_bytes, config.audio.member):
        try:
            data = sample.members[audio_suffix(sample, config.audio.member)]
            decoded = decode_audio(data, recipe.sample_rate, config.audio, config.limits)
        except SampleError:
            continue
        yield torch.from_numpy(np.array(to_float(decoded.audio_T[:num_samples])))
        found += 1
        if found == settings.clips:
            return
