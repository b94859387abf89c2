"""Training workers on a Ray cluster: one process for each GPU, started again if one is lost.

The only module of `jobs` that imports ray. `worker.train_worker` does the computing; this module
decides where it runs. After a loss, workers resume from the last checkpoint in the run directory.
"""

import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from speechmill.codecs.errors import CodecError
from speechmill.codecs.precision import check_precision
from speechmill.jobs.stop_signal import stop_signal
from speechmill.jobs.training.config import TrainConfig, TrainWorkers
from speechmill.jobs.training.context import WorkerContext
from speechmill.jobs.training.progress import Messages, TrainProgress
from speechmill.jobs.training.worker import TrainJob, train_worker
from speechmill.pipeline.errors import SpeechmillError, WorkerLost
from speechmill.pipeline.run.job import worker_count
from speechmill.pipeline.run.ray_cluster import (
    connected,
    set_environment,
    task_error,
    wrapped_errors,
)
from speechmill.pipeline.run.ray_nodes import living_resources, on_node

_POLL = 0.2  # s, between checks for reports of the workers, and for a request to stop


def train_on_ray(job: TrainJob, report: Callable[[TrainProgress], None]) -> None:
    """Train on the cluster of the configuration, or on a local one for this run."""
    settings = job.config.workers
    with (
        connected(job.config.ray),
        tempfile.TemporaryDirectory(prefix="speechmill-train-") as folder,
    ):
        scaling = _scaling(settings)
        _check_gpu(job.config)
        messages = _start_messages()
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": job, "messages": messages},
            torch_config=_torch_config(job.config, folder),
            scaling_config=scaling,
            run_config=RunConfig(
                storage_path=folder,  # for Ray's own files; ours are in the run directory
                failure_config=FailureConfig(max_failures=settings.max_failures),
            ),
        )
        _fit(trainer, messages, report)


def _start_messages() -> Any:
    """Start the actor on the node of the driver, so that the loss of another node keeps it."""
    here = on_node(ray.get_runtime_context().get_node_id())
    return ray.remote(Messages).options(num_cpus=0, scheduling_strategy=here).remote()


def _torch_config(config: TrainConfig, folder: str) -> TorchConfig:
    backend = "nccl" if config.workers.num_gpus else "gloo"
    return TorchConfig(backend) if config.ray.address else _LocalTorchConfig(backend, folder=folder)


@dataclass
class _LocalTorchConfig(TorchConfig):  # type: ignore[misc]
    """The workers of one machine meet in a file: torch's own store listens on every network."""

    folder: str = ""  # on a disk of this machine

    @property
    def backend_cls(self) -> type:
        return _FileStoreBackend


class _FileStoreBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: _LocalTorchConfig) -> None:
        url = f"file://{backend_config.folder}/{uuid.uuid4().hex}"
        size = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _meet, backend_config.backend, url, rank, size
                )
                for rank in range(size)
            ]
        )


def _meet(backend: str, url: str, rank: int, size: int) -> None:
    torch.distributed.init_process_group(backend, init_method=url, rank=rank, world_size=size)


def _check_gpu(config: TrainConfig) -> None:
    """Raise `UnsupportedPrecision` if a GPU of the cluster lacks the precision of the run.

    One GPU is asked before a worker starts, because Ray would start a failing worker again.
    """
    if not config.workers.on_gpus or config.precision == "fp32":
        return
    check = ray.remote(check_precision).options(num_cpus=0, num_gpus=config.workers.num_gpus)
    try:
        ray.get(check.remote(config.precision, torch.device("cuda")))
    except RayTaskError as error:
        raise _worker_error(task_error(error)) from error


def _fit(trainer: Any, messages: Any, report: Callable[[TrainProgress], None]) -> None:
    """Wait for the end, pass on the reports of the workers, and SIGTERM to them."""
    ended = threading.Event()
    with stop_signal() as should_stop:  # after ray.init, which sets a handler of its own
        arguments = (messages, report, ended, should_stop)
        listener = threading.Thread(target=_listen, args=arguments, daemon=True)
        listener.start()
        try:
            trainer.fit()
        except Exception as error:
            raise _worker_error(error) from error
        finally:
            ended.set()
            listener.join()


def _listen(
    messages: Any,
    report: Callable[[TrainProgress], None],
    ended: threading.Event,
    should_stop: Callable[[], bool],
) -> None:
    last = False
    while not last:
        last = ended.wait(_POLL)
        for progress in ray.get(messages.take_reports.remote(should_stop())):
            report(progress)


def _work(settings: dict[str, Any]) -> None:
    """Run in each worker's process."""
    set_environment(settings["job"].config.ray.env)
    ray_context = ray.train.get_context()
    rank, messages = ray_context.get_world_rank(), settings["messages"]
    should_stop = _watch(messages) if rank == 0 else lambda: False
    context = WorkerContext(rank, ray_context.get_world_size(), get_device(), should_stop)
    report = partial(_report, messages) if context.is_main else _drop
    train_worker(settings["job"], context, report)


def _watch(messages: Any) -> Callable[[], bool]:
    """Return a function that says at once whether the driver asked the workers to stop."""
    asked = threading.Event()

    def watch() -> None:
        with suppress(RayError):  # the driver is gone
            while not ray.get(messages.should_stop.remote()):
                time.sleep(_POLL)
            asked.set()

    threading.Thread(target=watch, daemon=True).start()
    return asked.is_set


def _report(messages: Any, progress: TrainProgress) -> None:
    ray.get(messages.report.remote(progress))


def _drop(_: TrainProgress) -> None:
    """Ignore a report: those of the main worker say the same."""


def _scaling(settings: TrainWorkers) -> ScalingConfig:
    count = settings.count or worker_count(settings.num_gpus, living_resources())
    workers = (settings.min_count, count) if settings.min_count else count
    return ScalingConfig(
        num_workers=workers,
        use_gpu=settings.num_gpus > 0,
        resources_per_worker={"CPU": settings.num_cpus, "GPU": settings.num_gpus},
    )


def _worker_error(error: BaseException) -> BaseException:
    """Return the error that a worker raised on purpose, without Ray's wrapping."""
    for each in wrapped_errors(error):
        if isinstance(each, SpeechmillError | CodecError):
            return each
    return WorkerLost(f"training stopped: {error}")
