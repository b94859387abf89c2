"""`speechmill train`: fine-tune a codec, or train it from random weights, on WebDataset shards."""

import logging
from dataclasses import asdict

import torch

from speechmill.codecs.fetch import fetch
from speechmill.codecs.precision import check_precision
from speechmill.jobs.stop_signal import stop_signal
from speechmill.jobs.training.checkpoints import (
    Checkpoints,
    refuse_difference,
    run_identity,
    saved_identity,
)
from speechmill.jobs.training.collapse import refuse_collapsed
from speechmill.jobs.training.config import OnCollapse, TrainConfig, TrainWorkers
from speechmill.jobs.training.context import WorkerContext
from speechmill.jobs.training.display import TrainDisplay
from speechmill.jobs.training.logging import describe_run
from speechmill.jobs.training.optim import plan_phases
from speechmill.jobs.training.worker import TrainJob, train_worker
from speechmill.pipeline.enhance.api import load_enhancer
from speechmill.pipeline.errors import InputError, RunStopped
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage

logger = logging.getLogger(__name__)


def train_codec(config: TrainConfig, display: TrainDisplay) -> None:
    """Train to the end of the last phase; run it again to resume.

    Raises an `InputError` or a `CodecError` before any step is computed. If SIGTERM came, raises
    `RunStopped` after the step that was being computed, with a checkpoint; if the codec collapsed
    and `on_collapse` is stop, `TrainingCollapsed`, also when it is run again.
    """
    storage = Storage(config.storage, config.storage_patience)
    job = make_job(config, storage)
    root = storage.absolute(config.output)
    check_job(job, root, storage)
    describe_run(config, root, storage)
    display.begin(job.config, root, len(job.shards))
    with display.bar("training"):
        if config.workers.count == 0:
            with stop_signal() as should_stop:
                device = _device(config.workers)
                train_worker(
                    job, WorkerContext(device=device, should_stop=should_stop), display.show
                )
        else:
            from speechmill.jobs.training.distributed import train_on_ray

            train_on_ray(job, display.show)
    _require_end(config, root, storage)
    display.end(root, bool(config.validation.shards), storage)


def make_job(config: TrainConfig, storage: Storage) -> TrainJob:
    """List the shards and find the identity of the run."""
    return job_of(config, list_shards(config.shards, storage))


def job_of(config: TrainConfig, shards: list[Shard]) -> TrainJob:
    """Return the job of a run over listed shards."""
    revision = load_enhancer(config.enhancer).revision if config.enhancer else None
    return TrainJob(config, shards, run_identity(asdict(config), revision))


def check_job(job: TrainJob, root: str, storage: Storage) -> None:
    """Raise what a run raises before its first step, such as for another run at its output."""
    config, workers = job.config, job.config.workers
    if workers.count == 0 or not workers.on_gpus:  # otherwise a GPU of the cluster is asked
        check_precision(config.precision, _device(workers))
    if workers.num_gpus and not workers.on_gpus:
        logger.warning("this machine has no GPU: training on the CPU")
    if not config.phases:
        raise InputError("phases is empty; give at least one")
    checkpoints = Checkpoints(root, storage, config.checkpoint.keep)
    if checkpoint := checkpoints.latest():
        saved = saved_identity(checkpoint, config)
        refuse_difference(saved, job.identity, checkpoints.folder)
        refuse_collapsed(checkpoint, config, root)
    elif config.codec.checkpoint and "://" in config.codec.checkpoint:
        fetch(config.codec.checkpoint)  # Ray would start a worker that fails again and again


def _require_end(config: TrainConfig, root: str, storage: Storage) -> None:
    """Raise the reason if the run did not end with the last step, as far as checkpoints show."""
    checkpoints = Checkpoints(root, storage, config.checkpoint.keep)
    if config.on_collapse == OnCollapse.STOP and (checkpoint := checkpoints.latest()):
        refuse_collapsed(checkpoint, config, root)
    steps = checkpoints.steps()
    total = plan_phases(config.phases)[-1].end
    if steps and steps[-1] < total:
        raise RunStopped(f"stopped by a signal after step {steps[-1]} of {total}")


def _device(workers: TrainWorkers) -> torch.device:
    """Return the device of a run in this process, or on a cluster without GPUs."""
    return torch.device("cuda" if workers.on_gpus else "cpu")
