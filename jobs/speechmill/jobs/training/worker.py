"""What one training worker is told and does, wherever it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from speechmill.codecs import load_recipe
from speechmill.codecs.recipe import Recipe
from speechmill.jobs.training.augment import Augment, load_pool
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.data import Cropper, DataSettings, SampleStream
from speechmill.jobs.training.trainer import Place, Progress, Trainer, share_of
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage


@dataclass(frozen=True)
class TrainJob:
    """All that a worker must know."""

    config: TrainConfig
    shards: list[Shard]
    identity: dict[str, Any]


def train_worker(job: TrainJob, place: Place, report: Callable[[Progress], None]) -> None:
    """Do one worker's part; every worker ends with the same weights."""
    config = job.config
    storage = Storage(config.storage)
    torch.set_num_threads(config.workers.threads or max(1, int(config.workers.num_cpus)))
    torch.manual_seed(config.seed)
    recipe = build_recipe(config)
    stream = SampleStream(
        shards=job.shards,
        storage=storage,
        seed=config.seed,
        buffer_size=config.data.shuffle_buffer,
        share=share_of(place),
        limits=config.limits,
    )
    cropper = build_cropper(config, recipe, storage)
    Trainer(config, recipe, stream, cropper, place, job.identity, report).run()


def build_recipe(config: TrainConfig) -> Recipe:
    """Return the recipe, its weights random from torch's generator or from a checkpoint."""
    codec = config.codec
    recipe = load_recipe(
        codec.name,
        checkpoint=codec.checkpoint,
        config=codec.config,
        settings=config.recipe,
        enhance=None,
        **codec.options,
    )
    if list(config.phases) != [name for name in recipe.phases if name in config.phases]:
        known = ", ".join(recipe.phases)
        raise InputError(
            f"phases are {', '.join(config.phases)}; {codec.name} is trained in {known}, in this "
            "order, of which some may be left out"
        )
    for name, phase in config.phases.items():
        if phase.adversarial_from is not None and name in recipe.phases_without_audio:
            raise InputError(
                f"phases.{name}.adversarial_from is set, but {codec.name} makes no audio in this "
                "phase that discriminators could judge; leave it out"
            )
    return recipe


def build_cropper(config: TrainConfig, recipe: Recipe, storage: Storage) -> Cropper:
    """Return what makes crops, with the noises and rooms that it mixes in."""
    rate, num_samples = recipe.sample_rate, crop_samples(config.data, recipe)
    augment = Augment(
        config.augment,
        load_pool(config.augment.noise, rate, storage, config.audio),
        load_pool(config.augment.rooms, rate, storage, config.audio),
        keep_clean=config.enhancement == "clean",
    )
    offline = config.enhancement == "offline"
    return Cropper(rate, num_samples, offline, augment, config.audio, config.limits)


def crop_samples(settings: DataSettings, recipe: Recipe) -> int:
    """Samples of a crop: whole frames, at least one."""
    hop = recipe.hop_length
    num_samples = int(settings.crop_seconds * recipe.sample_rate) // hop * hop
    if not num_samples:
        raise InputError(f"data.crop_seconds is {settings.crop_seconds}, under one frame")
    return num_samples
