"""A worker as a Ray actor: models on one GPU, a share of one, or the CPU.

It owns the decode streams of its shards: Ray tasks on CPUs that yield batches into the object store
and pause when enough of them wait there.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from speechmill.pipeline.errors import NodeLost
from speechmill.pipeline.garbage import search_less
from speechmill.pipeline.run.diagnosis import timed
from speechmill.pipeline.run.job import Job, Work, WorkerSettings, claimed_cpus, fits
from speechmill.pipeline.run.ray_cluster import export_metrics, set_environment
from speechmill.pipeline.run.ray_nodes import elsewhere, living_resources, refusal
from speechmill.pipeline.run.ray_process import stream
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import Isolation
from speechmill.pipeline.tokenize.writer import ShardReport
from speechmill.pipeline.versions import Versions, decoding_versions

_LEAVING = "the worker got SIGTERM"


class Worker:
    """A job's models on one device; each of its shards has a thread."""

    def __init__(
        self,
        job: Job,
        settings: WorkerSettings,
        environment: dict[str, str],
        threads: int,
        stream_objects: int,
        versions: Versions,
    ):
        """`versions` are those of the run, which the nodes of its decode streams must have too."""
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
        self.versions = decoding_versions(versions, job.packages)
        self.refused: dict[str, str] = {}  # nodes that cannot decode, with the reason
        self.remote_stream = ray.remote(stream)  # once: each is sent to every process
        self.options = {
            "num_returns": "streaming",
            "max_retries": 0,
            "_generator_backpressure_num_objects": stream_objects,
        }

    def load(self) -> None:
        """Load the models; not in `__init__`, so that errors arrive unchanged."""
        if self.leaving:
            raise NodeLost(_LEAVING)
        if self.work:
            return
        search_less()
        import torch

        torch.set_num_threads(self.threads)  # Ray sets it to 1 for an actor that claims no CPU
        self.work = self.job.load()

    def heartbeat(self) -> tuple[int, dict[str, str]]:
        """A number that grows as long as the worker makes progress, and the refused nodes."""
        return self.progress, dict(self.refused)

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
        """Run a generator function in a task."""
        work = ray.cloudpickle.dumps(
            (_produce, (self.environment, function, shard, storage, *arguments))
        )
        cpus = claimed_cpus(self.settings, shard.url)
        for reference in self._open(function.__name__, work, cpus):
            yield ray.get(reference)
            self.progress += 1

    def _open(self, name: str, work: bytes, cpus: float) -> Iterator[ray.ObjectRef]:
        """Start a stream on a node with the versions of this run; raises `NodeUnfit` without one.

        Nodes are refused when they are first tried, since they come and go.
        """
        options = self.options | {"name": name, "num_cpus": cpus}
        while True:
            task = self.remote_stream.options(**options, label_selector=elsewhere(self.refused))
            references = task.remote(self.versions, work)
            introduction = ray.get(next(references))  # when a CPU is free
            error = refusal(introduction)
            if error is None:
                return references  # type: ignore[no-any-return]
            self.refused[introduction[0]] = str(error)
            if not any(fits(options, node) for node in living_resources(self.refused)):
                raise error

    def _leave(self, *_: object) -> None:
        """Finish the current shards within the grace time, take no others, then exit."""
        self.leaving = True
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        deadline = time.monotonic() + self.settings.grace_seconds
        while self.running and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3.0)  # for the answers to arrive, and for shards that were sent meanwhile
        os._exit(0)


def _produce(
    environment: dict[str, str], function: Callable[..., Iterator[Any]], *arguments: Any
) -> Iterator[Any]:
    set_environment(environment)
    export_metrics()
    yield from timed(function(*arguments))
