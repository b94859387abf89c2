"""The workers of one run on a Ray cluster: started, watched, restarted and added."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from speechmill.codecs.errors import CodecError
from speechmill.pipeline.errors import DeviceWrong, NodeLost, WorkerLost
from speechmill.pipeline.metrics import WORKERS_READY, record
from speechmill.pipeline.retry import Backoff
from speechmill.pipeline.run.job import (
    Job,
    WorkerEventCallback,
    WorkerSettings,
    shards_in_flight,
    stream_objects,
    worker_count,
)
from speechmill.pipeline.run.ray_cluster import draining_nodes, is_gone, task_error
from speechmill.pipeline.run.ray_gpu_worker import GPUWorker, worker_resources
from speechmill.pipeline.run.ray_worker import Worker
from speechmill.pipeline.run.runner import EventKind

CHECK_SECONDS = 1.0  # between two checks of all workers
_GROW_SECONDS = 5.0  # between two checks of the size of the cluster
_RETURN_SECONDS = 5.0  # between two attempts to find a worker that left its node
_MAX_LOAD_FAILURES = 3
_MAX_EARLY_DEATHS = 5  # in a row, of a worker that never named its node
_RELOAD = Backoff(first=1.0, longest=30.0)

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class WorkerState:
    """What the driver knows about one worker."""

    actor: ActorHandle
    node: str | None = None  # of its process
    ready: bool = False
    held: int = 0  # slots in use; an exclusive shard takes all of them
    leaving: bool = False  # its node is draining, or it got SIGTERM
    load_failures: int = 0  # in a row
    early_deaths: int = 0
    start_at: float | None = None  # when to try to start it again
    heartbeat: ray.ObjectRef | None = None  # a request without an answer yet
    progress: int = -1  # the last answer
    progress_at: float = 0.0  # when `progress` changed
    kill_reason: str = ""

    def loss(self, error: RayActorError) -> WorkerLost:
        """The error of its shards when it dies: `NodeLost` if its node is gone or draining."""
        if self.leaving or error.preempted or is_gone(self.node):
            return NodeLost(f"node {self.node} is gone: {error}")
        return WorkerLost(self.kill_reason or str(error))


class RayWorkers:
    """Starts as many workers as fit; Ray must be connected."""

    def __init__(
        self,
        job: Job,
        settings: WorkerSettings,
        environment: dict[str, str],
        on_event: WorkerEventCallback,
        one_worker: bool = False,
    ):
        self.starting: dict[ray.ObjectRef, WorkerState] = {}
        self._job = job
        self._settings = settings
        self._environment = environment
        self._on_event = on_event
        self._all: list[WorkerState] = []
        self._draining: set[str] = set()
        self._check_at = self._grow_at = 0.0
        resources = ray.cluster_resources()
        wanted = None if one_worker else settings.count
        count = wanted or worker_count(settings.num_gpus, resources)
        count = min(count, 1) if one_worker else count
        self._may_grow = not one_worker and not settings.count and bool(settings.num_gpus)
        self._threads = settings.threads or max(1, int(resources.get("CPU", 1) / count))
        reading = shards_in_flight(settings, resources, count)
        self.slots = settings.shards_in_flight or reading + job.waiting_shards
        self._add(count)

    def ready(self) -> list[WorkerState]:
        return [worker for worker in self._all if worker.ready and not worker.leaving]

    def kill(self) -> None:
        for worker in self._all:
            ray.kill(worker.actor)

    def _add(self, count: int) -> None:
        """Start more workers, all at the same time."""
        actor = ray.remote(GPUWorker if self._settings.num_gpus else Worker).options(
            **worker_resources(self._settings, ray.nodes()),
            max_restarts=-1,
            max_concurrency=self.slots + 1,
            scheduling_strategy="SPREAD",
        )
        objects = stream_objects(self._job, self._settings, self.slots)
        given = (self._job, self._settings, self._environment, self._threads, objects)
        for _ in range(count):
            worker = WorkerState(actor.remote(*given))
            self._all.append(worker)
            self.start(worker)

    def start(self, worker: WorkerState) -> None:
        """Wait for a process, then let it load the codec: two steps, to know which one failed."""
        worker.start_at, worker.node, worker.ready = None, None, False
        self.starting[worker.actor.node_id.remote()] = worker

    def finish_start(self, reference: ray.ObjectRef) -> None:
        worker = self.starting.pop(reference)
        try:
            answer = ray.get(reference)
        except RayActorError as error:
            if worker.node is None or is_gone(worker.node):
                self._wait_for_process(worker, error)
            else:
                self._start_again(worker, WorkerLost(f"a worker died while it loaded: {error}"))
        except RayTaskError as error:
            self._start_again(worker, task_error(error))
        else:
            if worker.node is None:
                worker.node = answer
                self.starting[worker.actor.load.remote()] = worker
            else:
                self._mark_ready(worker)

    def _mark_ready(self, worker: WorkerState) -> None:
        worker.ready, worker.leaving, worker.kill_reason = True, worker.node in self._draining, ""
        worker.held = worker.load_failures = worker.early_deaths = 0
        worker.progress, worker.heartbeat, worker.progress_at = -1, None, time.monotonic()
        if not worker.leaving:  # on a draining node it is started every few seconds
            self._on_event(EventKind.WORKER_READY, node=worker.node, workers=len(self.ready()))

    def _wait_for_process(self, worker: WorkerState, error: RayActorError) -> None:
        """Ask again soon, since Ray starts the process anew, on another node if need be.

        Raises `WorkerLost` if no process lives, as when the environment of the cluster is not that
        of the driver.
        """
        # An unavailable actor may come back.
        worker.early_deaths += not isinstance(error, ActorUnavailableError)
        if worker.early_deaths > _MAX_EARLY_DEATHS and not any(other.ready for other in self._all):
            raise WorkerLost(f"Ray keeps no worker alive, see its logs for the reason: {error}")
        worker.start_at = time.monotonic() + CHECK_SECONDS

    def _start_again(self, worker: WorkerState, error: Exception) -> None:
        """Retry a worker that cannot load, then drop it."""
        if isinstance(error, NodeLost):
            worker.start_at = time.monotonic() + CHECK_SECONDS
            return
        worker.load_failures += 1
        hopeless = isinstance(error, (CodecError, DeviceWrong))
        if worker.load_failures < _MAX_LOAD_FAILURES and not hopeless:
            delay = _RELOAD.delay(self._job.output, worker.load_failures)
            worker.start_at = time.monotonic() + delay
            return
        self.drop(worker, error)

    def drop(self, worker: WorkerState, error: Exception) -> None:
        """Go on without a worker; raises the error if it was the last one.

        Its process lives on without work, so that no other worker of the run gets its device.
        """
        worker.ready = False
        facts = {"error": type(error).__name__, "message": str(error)}
        self._on_event(EventKind.WORKER_DROPPED, node=worker.node, **facts)
        if not any(other.ready or self._is_coming(other) for other in self._all):
            raise error
        logger.warning("going on without a worker: %s", error)

    def _is_coming(self, worker: WorkerState) -> bool:
        return worker.start_at is not None or worker in self.starting.values()

    def check(self) -> None:
        """Once a second: find draining nodes, stalled workers and new GPUs."""
        now = time.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + CHECK_SECONDS
        with suppress(RayError):  # the head node is unavailable; Ray ends the driver if it stays so
            self._draining = draining_nodes()
        for worker in self._all:
            if worker.ready and worker.node in self._draining and not worker.leaving:
                worker.leaving = True
                self._on_event(EventKind.NODE_DRAINING, node=worker.node)
            if worker.ready and worker.leaving and not worker.held and worker.start_at is None:
                worker.start_at = now + _RETURN_SECONDS
            if worker.start_at is not None and now >= worker.start_at:
                self.start(worker)
        self._restart_stalled(now)
        self._grow(now)
        record(WORKERS_READY, len(self.ready()))

    def _restart_stalled(self, now: float) -> None:
        """Kill the workers that have made no progress for too long."""
        asked = {worker.heartbeat: worker for worker in self._all if worker.heartbeat}
        for reference in wait_for_any(list(asked), 0):
            worker = asked[reference]
            worker.heartbeat = None
            with suppress(RayError):  # the results of its shards will show that it died
                if (progress := ray.get(reference)) != worker.progress:
                    worker.progress, worker.progress_at = progress, now
        for worker in self.ready():
            if worker.held and now - worker.progress_at > self._settings.stall_seconds:
                worker.kill_reason = f"no progress for {now - worker.progress_at:.0f} s"
                worker.progress_at = now
                ray.kill(worker.actor, no_restart=False)
            elif worker.held and worker.heartbeat is None:
                worker.heartbeat = worker.actor.heartbeat.remote()

    def _grow(self, now: float) -> None:
        """Use the GPUs of nodes that joined late, unless the number of workers is fixed."""
        if now < self._grow_at or not self._may_grow:
            return
        self._grow_at = now + _GROW_SECONDS
        wanted = int(ray.cluster_resources().get("GPU", 0) / self._settings.num_gpus)
        if (more := wanted - len(self._all)) > 0:
            self._on_event(EventKind.WORKERS_ADDED, count=more)
            self._add(more)


def wait_for_any(references: list[ray.ObjectRef], timeout: float) -> list[ray.ObjectRef]:
    """Wait until one is finished, then return all that are finished."""
    if not references:
        time.sleep(timeout)
        return []
    first, _ = ray.wait(references, num_returns=1, timeout=timeout)
    if not first:
        return []
    return list(ray.wait(references, num_returns=len(references), timeout=0)[0])
