"""`speechmill train`: fine-tune a codec, or train it from nothing, on WebDataset shards."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from speechmill.codecs.precision import check_precision
from speechmill.jobs.config import to_yaml
from speechmill.jobs.training.checkpoints import (
    Checkpoints,
    identity,
    refuse_difference,
    saved_identity,
)
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.display import TrainDisplay
from speechmill.jobs.training.trainer import Place
from speechmill.jobs.training.worker import TrainJob, train_worker
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.tokenize.writer import library_versions


def train(config: TrainConfig, display: TrainDisplay) -> None:
    """Train to the end of the last phase; run it again to resume.

    Raises an `InputError` for what cannot be trained before any step is computed.
    """
    storage = Storage(config.storage)
    job = TrainJob(config, list_shards(config.shards, storage), settings_of(config))
    root = storage.absolute(config.output)
    _check(job, root, storage)
    describe_run(config, root, storage)
    display.begin(job.config, root, len(job.shards))
    with display.running():
        if config.workers.count == 0:
            train_worker(job, Place(), display.progress)
        else:
            from speechmill.jobs.training.distributed import train_on_ray

            train_on_ray(job, display.progress)
    display.end(root, bool(config.validation.shards), storage)


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
        refuse_difference(saved_identity(state, config), job.identity, checkpoints.folder)


def settings_of(config: object) -> dict[str, Any]:
    """Return what a checkpoint of this run must have been made with."""
    resolved = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(resolved, dict)
    return identity({str(key): value for key, value in resolved.items()})


def describe_run(config: object, root: str, storage: Storage) -> None:
    """Write what the run directory must tell: configuration, versions, commit."""
    storage.put(join(root, "config.yaml"), to_yaml(config).encode())
    versions = {
        **library_versions(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "git_commit": _git_commit(),
    }
    storage.put(join(root, "versions.json"), json.dumps(versions, indent=1).encode())


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
