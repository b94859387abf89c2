"""A worker as a Ray actor: models on one GPU, a share of one, or the CPU.

It owns the decode streams of its shards: Ray tasks on CPUs that yield batches into the object store
and pause when enough of them wait there.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from typing import Any

import ray

from speechmill.pipeline.errors import NodeLost, SpeechmillError
from speechmill.pipeline.filesystems import is_local
from speechmill.pipeline.object_reader import ObjectStart
from speechmill.pipeline.run.diagnosis import timed
from speechmill.pipeline.run.job import Job, Work, WorkerSettings
from speechmill.pipeline.run.ray_cluster import export_metrics, set_environment
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import Isolation
from speechmill.pipeline.tokenize.writer import ShardReport

_LEAVING = "the worker got SIGTERM"


class Worker:
    """A job's models on one device; each of its shards has a thread."""

    def __init__(
        self,
        job: Job,
        settings: WorkerSettings,
        environment: dict[str, str],
        threads: int,
        streams: int,
        stream_objects: int,
    ):
        """`streams` shards are decoded at the same time, and as many may wait for a CPU."""
        set_environment(environment)
        self.environment = environment
        self.job = job
        export_metrics()
        self.threads = threads
        self.settings = settings
        self.work: Work | None = None
        self.progress = 0  # objects taken so far
        self.running = 0
        self.leaving = False
        signal.signal(signal.SIGTERM, self._leave)
        # Once: each new remote function is sent to every process.
        self.produce = ray.remote(_produce)
        self.fetch_start = ray.remote(_fetch_start).options(
            num_cpus=0, scheduling_strategy="SPREAD"
        )
        self.waiting = threading.Semaphore(streams)  # shards that no CPU decodes yet
        self.options = {
            "num_returns": "streaming",
            "num_cpus": settings.decode_cpus,
            "max_retries": 0,
            "_generator_backpressure_num_objects": stream_objects,
        }

    def node_id(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def load(self) -> None:
        """Load the models; not in `__init__`, so that errors arrive unchanged."""
        if self.leaving:
            raise NodeLost(_LEAVING)
        if self.work:
            return
        import torch

        torch.set_num_threads(self.threads)  # Ray sets it to 1 for an actor that claims no CPU
        self.work = self.job.load()

    def heartbeat(self) -> int:
        """A number that grows as long as the worker makes progress."""
        return self.progress

    def run(self, shard: Shard, isolation: Isolation, needed: Sequence[int]) -> ShardReport:
        """Process a shard for the outputs in these positions."""
        from speechmill.pipeline.device_errors import broken_device

        if self.leaving:
            raise NodeLost(_LEAVING)
        assert self.work
        self.running += 1
        try:
            with broken_device():
                return self.work(shard, self._stream, isolation, needed)
        finally:
            self.running -= 1

    def _stream(
        self,
        function: Callable[..., Iterator[Any]],
        shard: Shard,
        storage: Storage,
        *arguments: Any,
    ) -> Iterator[Any]:
        """Run a generator function in a task; the start of a far shard is fetched before."""
        task = self.produce.options(name=function.__name__, **self.options)
        is_far = self.job.reads_from_start and not is_local(shard.url)
        with self.waiting if is_far else nullcontext():
            fetched = (self.environment, storage, shard.url)
            start = self.fetch_start.remote(*fetched) if is_far else None
            items = task.remote(self.environment, start, function, shard, storage, *arguments)
            del start  # the task keeps it as long as it runs
            first = list(islice(items, 1))
        for reference in chain(first, items):
            yield ray.get(reference)
            self.progress += 1

    def _leave(self, *_: object) -> None:
        """Finish the current shards within the grace time, take no others, then exit."""
        self.leaving = True
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        deadline = time.monotonic() + self.settings.grace_seconds
        while self.running and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)  # for the answers to leave this process
        os._exit(0)


def _fetch_start(environment: dict[str, str], storage: Storage, url: str) -> ObjectStart | None:
    """The first bytes of a shard; None after a fault, which its decoder meets again and reports."""
    set_environment(environment)
    export_metrics()
    try:
        return storage.fetch_start(url)
    except SpeechmillError:
        return None


def _produce(
    environment: dict[str, str],
    start: ObjectStart | None,
    function: Callable[..., Iterator[Any]],
    shard: Shard,
    storage: Storage,
    *arguments: Any,
) -> Iterator[Any]:
    set_environment(environment)
    export_metrics()
    yield from timed(function(shard, storage.with_start(start), *arguments))
