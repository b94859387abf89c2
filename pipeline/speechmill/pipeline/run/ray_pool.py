"""The pool of `speechmill.pipeline.run.runner` on a Ray cluster, local or not."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import ray
from ray.exceptions import RayActorError, RayTaskError

from speechmill.pipeline.errors import (
    DeviceBroken,
    DeviceWrong,
    NodeLost,
    StreamBroken,
    WorkerLost,
)
from speechmill.pipeline.run.job import Job, RaySettings, WorkerEventCallback, WorkerSettings
from speechmill.pipeline.run.ray_cluster import connected, export_metrics, task_error
from speechmill.pipeline.run.ray_workers import CHECK_SECONDS, RayWorkers, WorkerState
from speechmill.pipeline.run.runner import EventKind, ShardResult
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.decode import Isolation


@dataclass(frozen=True, slots=True)
class _Task:
    worker: WorkerState
    shard: Shard
    slots: int  # of the worker that it takes


class RayPool:
    """Hands shards to Ray actors and returns their results."""

    def __init__(
        self,
        job: Job,
        settings: WorkerSettings,
        cluster: RaySettings,
        needed: Mapping[Shard, Sequence[int]] | None = None,
        on_worker_event: WorkerEventCallback = lambda kind, **facts: None,
        one_worker: bool = False,
    ):
        """`needed` lists the missing outputs, by position, of shards that do not need them all.

        With `one_worker` only one starts, whatever the settings say; raises `InputError` if none
        fits.
        """
        self._all_outputs = range(job.num_outputs)
        self._needed = needed or {}
        self._to_isolate: set[Shard] = set()  # their decoding process died
        self._running: dict[ray.ObjectRef, _Task] = {}
        self._holders: defaultdict[Shard, set[WorkerState]] = defaultdict(set)
        self._on_worker_event = on_worker_event
        with ExitStack() as stack:
            stack.enter_context(connected(cluster))
            export_metrics()
            self.resources = ray.cluster_resources()
            self._workers = RayWorkers(job, settings, cluster, on_worker_event, one_worker)
            self._cluster = stack.pop_all()

    def free(self, exclusive: bool = False) -> int:
        available = self._workers.available
        return available.without_shards() if exclusive else available.free_slots()

    def submit(self, shard: Shard, exclusive: bool = False) -> None:
        worker = self._workers.available.least_loaded(self._holders[shard])
        assert worker
        slots = self._workers.slots if exclusive else 1
        if not worker.held:
            worker.progress_at = time.monotonic()
        self._workers.available.hold(worker, slots)
        needed = self._needed.get(shard, self._all_outputs)
        isolation = Isolation.FULL if shard in self._to_isolate else Isolation.WATCHED
        reference = worker.actor.run.remote(shard, isolation, needed)
        self._workers.calls.add(reference)
        self._running[reference] = _Task(worker, shard, slots)
        self._holders[shard].add(worker)

    def can_copy(self, shard: Shard) -> bool:
        return self._workers.available.least_loaded(self._holders[shard]) is not None

    def wait(self, timeout: float | None = None) -> list[ShardResult]:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._workers.check()
            available = len(self._workers.available)
            left = CHECK_SECONDS if end is None else min(CHECK_SECONDS, end - time.monotonic())
            returned = self._workers.calls.wait(max(0.0, left))
            results = [result for reference in returned for result in self._finish(reference)]
            if results or len(self._workers.available) > available:
                return results
            if end is not None and time.monotonic() >= end:
                return []

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers and their decode streams; unfinished parts never appear."""
        with self._cluster:
            self._workers.kill()

    def _finish(self, reference: ray.ObjectRef) -> list[ShardResult]:
        if reference in self._workers.starting:
            self._workers.finish_start(reference)
            return []
        if reference in self._running:
            return self._finish_shard(reference)
        return []  # its worker was lost, and its result is already reported

    def _finish_shard(self, reference: ray.ObjectRef) -> list[ShardResult]:
        task = self._pop(reference)
        try:
            result = ShardResult(task.shard, ray.get(reference), node=task.worker.node)
        except RayActorError as error:
            return self._restart(task, task.worker.loss(error))
        except RayTaskError as error:
            result = ShardResult(task.shard, error=task_error(error))
        if isinstance(result.error, DeviceBroken):
            ray.kill(task.worker.actor, no_restart=False)
            return self._restart(task, result.error)
        if isinstance(result.error, DeviceWrong):
            return self._drop(task, result.error)
        if isinstance(result.error, StreamBroken):
            self._to_isolate.add(task.shard)
        if isinstance(result.error, NodeLost):
            self._workers.leave(task.worker)
        self._workers.available.hold(task.worker, -task.slots)
        return [result]

    def _pop(self, reference: ray.ObjectRef) -> _Task:
        task = self._running.pop(reference)
        holders = self._holders[task.shard]
        holders.discard(task.worker)
        if not holders:
            del self._holders[task.shard]
        return task

    def _restart(self, task: _Task, error: Exception) -> list[ShardResult]:
        """Ray restarts the process; the other shards that the worker held are lost with it."""
        facts = {"error": type(error).__name__, "message": str(error).splitlines()[0]}
        self._on_worker_event(EventKind.WORKER_LOST, node=task.worker.node, **facts)
        shards = self._take_back(task.worker)
        self._workers.start(task.worker)
        loss = error if isinstance(error, WorkerLost) else WorkerLost(str(error))
        return [
            ShardResult(task.shard, error=error, shared_loss=bool(shards)),
            *(ShardResult(shard, error=loss, shared_loss=True) for shard in shards),
        ]

    def _drop(self, task: _Task, error: DeviceWrong) -> list[ShardResult]:
        """Go on without the worker; none of its shards in flight is at fault."""
        shards = [task.shard, *self._take_back(task.worker)]
        self._workers.drop(task.worker, error)
        return [ShardResult(shard, error=error) for shard in shards]

    def _take_back(self, worker: WorkerState) -> list[Shard]:
        """Return a worker's shards in flight; their later results are ignored."""
        held = [reference for reference, task in self._running.items() if task.worker is worker]
        return [self._pop(reference).shard for reference in held]
