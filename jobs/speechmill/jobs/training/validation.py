"""Held-out clips, and how near a codec's reconstructions come to them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.losses import MelLoss
from speechmill.codecs.recipe import Recipe
from speechmill.jobs.training.config import TrainConfig
from speechmill.pipeline.audio.decoders import to_float
from speechmill.pipeline.audio.resample import decode_audio
from speechmill.pipeline.errors import InputError, SampleError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.shards.tar_reader import Sample, read_samples
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import audio_suffix

_FFTS = (256, 512, 1024, 2048)
_BANDS = (20, 40, 80, 80)


class Validation:
    """The first clips of the validation shards, always the same."""

    def __init__(self, config: TrainConfig, recipe: Recipe, storage: Storage):
        self.clips = list(_clips(config, recipe, storage))
        if not self.clips:
            raise InputError(
                f"no clip in {', '.join(config.validation.shards)} can be decoded; give other "
                "validation.shards, or none to train without validation"
            )
        self._mel = MelLoss(recipe.sample_rate, _FFTS, _BANDS, squared=False)

    @torch.no_grad()
    def measure(
        self, recipe: Recipe, device: torch.device
    ) -> tuple[dict[str, float], list[Tensor]]:
        """Return the mean of each metric over the clips, and the reconstructions."""
        from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr

        recipe.eval()
        audio = [_reconstruct(recipe, clip_T, device) for clip_T in self.clips]
        recipe.train()
        pairs = list(zip(audio, self.clips, strict=True))
        mel = [self._mel(ours_T[None], clip_T[None]) for ours_T, clip_T in pairs]
        sdr = [si_sdr(ours_T, clip_T, zero_mean=True) for ours_T, clip_T in pairs]
        means = {"mel": torch.stack(mel).mean(), "si_sdr": torch.stack(sdr).mean()}
        return {name: float(value) for name, value in means.items()}, audio


def _reconstruct(recipe: Recipe, clip_T: Tensor, device: torch.device) -> Tensor:
    padded_T = F.pad(clip_T, (0, -len(clip_T) % recipe.hop_length))
    audio_T = recipe.reconstruct(padded_T[None].to(device))[0].float().cpu()
    return audio_T[: len(clip_T)]


def _clips(config: TrainConfig, recipe: Recipe, storage: Storage) -> Iterator[Tensor]:
    settings = config.validation
    num_samples = round(settings.seconds * recipe.sample_rate)
    found = 0
    for sample in _samples(config, storage):
        try:
            data = sample.members[audio_suffix(sample, config.audio.member)]
            decoded = decode_audio(data, recipe.sample_rate, config.audio, config.limits)
        except SampleError:
            continue
        yield torch.from_numpy(np.array(to_float(decoded.audio_T[:num_samples])))
        found += 1
        if found == settings.clips:
            return


def _samples(config: TrainConfig, storage: Storage) -> Iterator[Sample]:
    for shard in list_shards(config.validation.shards, storage):
        for sample in read_samples(shard, storage, int(config.limits.member_mb * 1e6)):
            if isinstance(sample, Sample):
                yield sample
