"""The pool of `speechmill.pipeline.run.runner` in this process: for debuggers and laptops."""

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from speechmill.pipeline.audio.isolation import kept_process
from speechmill.pipeline.errors import DeviceBroken, DeviceWrong, InputError
from speechmill.pipeline.run.diagnosis import timed
from speechmill.pipeline.run.job import Job, WorkerEventCallback, WorkerSettings
from speechmill.pipeline.run.runner import EventKind, ShardResult
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.decode import Isolation


class LocalPool:
    """Processes one shard after the other in this process, without Ray.

    On Ray, a time or memory limit may end the process that decodes a shard for the first time. Here
    that process would be this one, so recordings are decoded in a child process from the first
    attempt on, one child for all shards: a recording that crashes its decoder, or exceeds a limit,
    costs only itself. `enhance` decodes in the process of its model, here as on Ray, so a crash of
    its decoder ends this process.
    """

    def __init__(
        self,
        job: Job,
        settings: WorkerSettings,
        needed: Mapping[Shard, Sequence[int]] | None = None,
        on_worker_event: WorkerEventCallback = lambda kind, **facts: None,
    ):
        """`needed` lists the missing outputs, by position, of shards that do not need them all.

        Raises `InputError` if a GPU is wanted and there is none.
        """
        _prepare_torch(settings)
        self._all_outputs = range(job.num_outputs)
        self._needed = needed or {}
        self._work = job.load()
        self._waiting: list[Shard] = []
        self._stack = ExitStack()
        on_worker_event(EventKind.WORKER_READY, node=socket.gethostname(), workers=1)

    def free(self, exclusive: bool = False) -> int:
        return 1 - len(self._waiting)

    def submit(self, shard: Shard, exclusive: bool = False) -> None:
        self._waiting.append(shard)

    def can_copy(self, shard: Shard) -> bool:
        return False

    def wait(self, timeout: float | None = None) -> list[ShardResult]:
        """Process the shard that was submitted.

        Raises `DeviceBroken` and `DeviceWrong`, which no retry can cure.
        """
        if not self._waiting:
            time.sleep(timeout or 0)
            return []
        shard = self._waiting.pop()
        try:
            return [ShardResult(shard, self._process(shard), node=socket.gethostname())]
        except (DeviceBroken, DeviceWrong):
            raise
        except Exception as error:
            return [ShardResult(shard, error=error)]

    def _process(self, shard: Shard) -> Any:
        from speechmill.pipeline.device_errors import broken_device

        needed = self._needed.get(shard, self._all_outputs)
        with broken_device():
            return self._work(shard, _stream, Isolation.FULL, needed)

    def __enter__(self) -> "LocalPool":
        self._stack.enter_context(kept_process())
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self._work.close()


def _stream(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
    return timed(function(*arguments))


def _prepare_torch(settings: WorkerSettings) -> None:
    import torch

    if settings.num_gpus and not torch.cuda.is_available():
        raise InputError(
            f"this machine has no GPU, a worker wants {settings.num_gpus:g}; set "
            "workers.num_gpus=0 to run on the CPU"
        )
    if settings.threads:
        torch.set_num_threads(settings.threads)
