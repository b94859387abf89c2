"""One training worker, wherever it runs: builds its recipe and its data, then trains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from speechmill.codecs import load_recipe
from speechmill.codecs.recipe import Recipe
from speechmill.jobs.training.augment import Augment, load_pool
from speechmill.jobs.training.checkpoints import ENHANCER_REVISION
from speechmill.jobs.training.config import DataSettings, Enhancement, TrainConfig
from speechmill.jobs.training.context import WorkerContext
from speechmill.jobs.training.data import Cropper
from speechmill.jobs.training.online import online_enhancer
from speechmill.jobs.training.progress import TrainProgress
from speechmill.jobs.training.stream import SampleStream, WorkerSplit
from speechmill.jobs.training.trainer import Trainer
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage


@dataclass(frozen=True)
class TrainJob:
    """The work of a run, as it is sent to every worker."""

    config: TrainConfig
    shards: list[Shard]
    identity: dict[str, Any]


def train_worker(
    job: TrainJob, context: WorkerContext, report: Callable[[TrainProgress], None]
) -> None:
    """Train as one of the workers; all of them end with the same weights."""
    config = job.config
    storage = Storage(config.storage, config.storage_patience)
    torch.set_num_threads(config.workers.threads or max(1, int(config.workers.num_cpus)))
    torch.manual_seed(config.seed)
    recipe = build_recipe(config, job.identity.get(ENHANCER_REVISION))
    stream = SampleStream(
        shards=job.shards,
        storage=storage,
        seed=config.seed,
        buffer_size=config.data.shuffle_buffer,
        split=WorkerSplit(context.rank, context.world_size),
        limits=config.limits,
        audio_member=config.audio.member,
    )
    cropper = build_cropper(config, recipe, storage)
    Trainer(config, recipe, stream, cropper, context, job.identity, report).run()


def build_recipe(config: TrainConfig, enhancer_revision: str | None = None) -> Recipe:
    """Return the recipe, its weights random from torch's generator or from a checkpoint.

    Raises `CheckpointError` if the enhancer has another revision than in the driver.
    """
    codec, enhance = config.codec, online_enhancer(config, enhancer_revision)
    recipe = load_recipe(
        codec.name,
        checkpoint=codec.checkpoint,
        config=codec.config,
        settings=config.recipe,
        enhance=enhance,
        **codec.options,
    )
    if enhance:
        enhance.sample_rate = recipe.sample_rate
    if list(config.phases) != [name for name in recipe.phases if name in config.phases]:
        known = ", ".join(recipe.phases)
        raise InputError(
            f"phases are {', '.join(config.phases)}; {codec.name} is trained in {known}, in this "
            "order, and some may be left out"
        )
    for name, phase in config.phases.items():
        if phase.adversarial_from is not None and name in recipe.phases_without_audio:
            raise InputError(
                f"phases.{name}.adversarial_from is set, but {codec.name} makes no audio in this "
                "phase, so discriminators have nothing to compare; leave it out"
            )
    return recipe


def build_cropper(config: TrainConfig, recipe: Recipe, storage: Storage) -> Cropper:
    """Return the cropper, with its pools of noises and rooms."""
    rate, num_samples = recipe.sample_rate, crop_samples(config.data, recipe)
    augment = Augment(
        config.augment,
        load_pool(config.augment.noise, rate, storage, config.audio),
        load_pool(config.augment.rooms, rate, storage, config.audio),
        keep_clean=config.enhancement == Enhancement.CLEAN,
    )
    offline = config.enhancement == Enhancement.OFFLINE
    return Cropper(rate, num_samples, offline, augment, config.audio, config.limits)


def crop_samples(settings: DataSettings, recipe: Recipe) -> int:
    """Return the samples of a crop: whole frames, at least one."""
    hop = recipe.hop_length
    num_samples = int(settings.crop_seconds * recipe.sample_rate) // hop * hop
    if not num_samples:
        raise InputError(f"data.crop_seconds is {settings.crop_seconds}, under one frame")
    return num_samples
