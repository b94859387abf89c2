"""`speechmill train`: fine-tune a codec, or train it from nothing, on WebDataset shards."""

import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from jobs.augment import Augment, load_pool
from jobs.config import to_yaml
from jobs.data import Cropper, SampleStream
from jobs.state import Checkpoints, identity, refuse_difference
from jobs.train_config import TrainConfig
from jobs.train_display import TrainDisplay
from jobs.trainer import Place, Progress, Trainer, share_of
from pipeline.errors import InputError
from pipeline.shard import Shard, list_shards
from pipeline.storage import Storage, join
from pipeline.writer import library_versions
from speech_codecs import load_recipe
from speech_codecs.precision import check_precision
from speech_codecs.training import Recipe


@dataclass(frozen=True)
class TrainJob:
    """All that a worker must know."""

    config: TrainConfig
    shards: list[Shard]
    identity: dict[str, Any]


def train(config: TrainConfig, display: TrainDisplay) -> None:
    """Train to the end of the last phase; run it again to resume.

    Raises an `InputError` for what cannot be trained before any step is computed.
    """
    storage = Storage(config.storage)
    job = TrainJob(config, list_shards(config.shards, storage), _identity(config))
    root = storage.absolute(config.output)
    _check(job, root, storage)
    _describe_run(config, root, storage)
    display.begin(job.config, root, len(job.shards))
    with display.running():
        if config.workers.count == 0:
            train_worker(job, Place(), display.progress)
        else:
            from jobs.train_workers import train_on_ray

            train_on_ray(job, display.progress)
    display.end(root)


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
    return recipe


def build_cropper(config: TrainConfig, recipe: Recipe, storage: Storage) -> Cropper:
    """Return what makes crops, with the noises and rooms that it mixes in."""
    hop, rate = recipe.hop_length, recipe.sample_rate
    num_samples = int(config.data.crop_seconds * rate) // hop * hop
    if not num_samples:
        raise InputError(f"data.crop_seconds is {config.data.crop_seconds}, under one frame")
    augment = Augment(
        config.augment,
        load_pool(config.augment.noise, rate, storage, config.audio),
        load_pool(config.augment.rooms, rate, storage, config.audio),
        keep_clean=config.enhancement == "clean",
    )
    offline = config.enhancement == "offline"
    return Cropper(rate, num_samples, offline, augment, config.audio, config.limits)


def _check(job: TrainJob, root: str, storage: Storage) -> None:
    config = job.config
    device = torch.device(
        "cuda" if config.workers.count != 0 and config.workers.num_gpus else "cpu"
    )
    if device.type == "cpu":
        check_precision(config.precision, device)
    if not config.phases:
        raise InputError("phases is empty; give at least one")
    checkpoints = Checkpoints(root, storage, config.checkpoint.keep)
    if state := checkpoints.latest():
        refuse_difference(state["identity"], job.identity, checkpoints.folder)


def _identity(config: TrainConfig) -> dict[str, Any]:
    resolved = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(resolved, dict)
    return identity({str(key): value for key, value in resolved.items()})


def _describe_run(config: TrainConfig, root: str, storage: Storage) -> None:
    """Write what the run directory must tell: configuration, versions, commit."""
    storage.put(join(root, "config.yaml"), to_yaml(config).encode())
    versions = {
        **library_versions(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "git_commit": _git_commit(),
    }
    storage.put(
        join(root, "versions.yaml"),
        OmegaConf.to_yaml(
            OmegaConf.create({k: None if v is None else str(v) for k, v in versions.items()})
        ).encode(),
    )


def _git_commit() -> str | None:
    """The commit of the working copy that this module lies in, if it is one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
