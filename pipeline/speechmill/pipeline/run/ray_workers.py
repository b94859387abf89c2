"""The workers of one run on a Ray cluster: started, watched, restarted and added."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import ceil

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from speechmill.codecs.errors import CodecError
from speechmill.pipeline.errors import (
    DeviceWrong,
    InputError,
    NodeLost,
    NodeUnfit,
    WorkerLost,
)
from speechmill.pipeline.metrics import WORKERS_READY, record
from speechmill.pipeline.retry import Backoff
from speechmill.pipeline.run.available_workers import AvailableWorkers
from speechmill.pipeline.run.job import (
    Job,
    RaySettings,
    WorkerEventCallback,
    WorkerSettings,
    check_decode_cpus,
    decode_streams,
    fits,
    stream_objects,
    worker_count,
)
from speechmill.pipeline.run.ray_calls import PendingCalls
from speechmill.pipeline.run.ray_cluster import draining_nodes, is_gone, task_error
from speechmill.pipeline.run.ray_gpu_worker import GPUWorker, worker_resources
from speechmill.pipeline.run.ray_nodes import elsewhere, has_autoscaler, living_resources, refusal
from speechmill.pipeline.run.ray_process import WorkerProcess
from speechmill.pipeline.run.ray_worker import Worker
from speechmill.pipeline.run.runner import EventKind
from speechmill.pipeline.versions import token_versions

CHECK_SECONDS = 1.0  # between two checks of all workers
_GROW_SECONDS = 5.0  # between two checks of the size of the cluster
_RETURN_SECONDS = 5.0  # between two attempts to find a worker that left its node
_MAX_LOAD_FAILURES = 3
_MAX_EARLY_DEATHS = 5  # in a row, of a worker that never named its node
_RELOAD = Backoff(first=1.0, longest=30.0)
_HEARTBEATS = 64  # asked for in one check, however many workers there are

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
        cluster: RaySettings,
        on_event: WorkerEventCallback,
        one_worker: bool = False,
    ):
        self.calls = PendingCalls()  # of shards and of workers that start
        self.starting: dict[ray.ObjectRef, WorkerState] = {}
        self._job = job
        self._settings = settings
        self._environment = cluster.env
        self._on_event = on_event
        self._all: list[WorkerState] = []
        self._draining: set[str] = set()
        self._unfit: set[str] = set()  # nodes that no worker may be on
        self._cannot_decode: set[str] = set()
        self._versions = token_versions(job.packages)
        self._check_at = self._grow_at = 0.0
        self._checks = 0
        resources = ray.cluster_resources()
        wanted = None if one_worker else settings.count
        fitting = _fitting(settings, may_join=bool(cluster.address and wanted))
        count = 1 if one_worker else wanted or fitting
        self._may_grow = not one_worker and not settings.count and bool(settings.num_gpus)
        self._threads = settings.threads or max(1, int(resources.get("CPU", 1) / count))
        streams = decode_streams(settings, resources, count)
        # As many again wait for a CPU, are committed, or are read from a far store.
        self.slots = settings.shards_in_flight or 2 * streams + 1 + job.waiting_shards
        self.available = AvailableWorkers[WorkerState](self.slots)  # ready and not leaving
        self._add(count)

    def kill(self) -> None:
        for worker in self._all:
            ray.kill(worker.actor)

    def _add(self, count: int) -> None:
        """Start more workers, all at the same time."""
        for actor in self._actors(count):
            worker = WorkerState(actor)
            self._all.append(worker)
            self.start(worker)

    def _actors(self, count: int) -> list[ActorHandle]:
        actor = ray.remote(WorkerProcess).options(
            **worker_resources(self._settings, ray.nodes()),
            max_restarts=-1,
            max_concurrency=self.slots + 1,
            scheduling_strategy="SPREAD",
            label_selector=elsewhere(self._unfit),
        )
        objects = stream_objects(self._job, self._settings, self.slots)
        given = (
            *(self._job, self._settings, self._environment),
            *(self._threads, objects, self._versions),
        )
        kind = GPUWorker if self._settings.num_gpus else Worker
        worker = ray.cloudpickle.dumps(partial(kind, *given))
        return [actor.remote(self._versions, worker) for _ in range(count)]

    def start(self, worker: WorkerState) -> None:
        """Wait for a process, then let it load the codec: two steps, to know which one failed."""
        self.available.discard(worker)
        worker.start_at, worker.node, worker.ready = None, None, False
        self._call(worker.actor.introduce.remote(), worker)

    def _call(self, reference: ray.ObjectRef, worker: WorkerState) -> None:
        self.starting[reference] = worker
        self.calls.add(reference)

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
            if worker.node is not None:
                self._mark_ready(worker)
                return
            worker.node = answer[0]
            if unfit := refusal(answer):
                self.drop(worker, unfit)
            else:
                self._call(worker.actor.load.remote(), worker)

    def _mark_ready(self, worker: WorkerState) -> None:
        worker.ready, worker.leaving, worker.kill_reason = True, worker.node in self._draining, ""
        worker.held = worker.load_failures = worker.early_deaths = 0
        worker.progress, worker.heartbeat, worker.progress_at = -1, None, time.monotonic()
        if not worker.leaving:  # on a draining node it is started every few seconds
            self.available.add(worker)
            self._on_event(EventKind.WORKER_READY, node=worker.node, workers=len(self.available))

    def leave(self, worker: WorkerState) -> None:
        """Give a worker no more shards, until it is started again."""
        self.available.discard(worker)
        worker.leaving = True

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
        hopeless = isinstance(error, (CodecError, DeviceWrong, InputError, NodeUnfit))
        if worker.load_failures < _MAX_LOAD_FAILURES and not hopeless:
            delay = _RELOAD.delay(self._job.output, worker.load_failures)
            worker.start_at = time.monotonic() + delay
            return
        self.drop(worker, error)

    def drop(self, worker: WorkerState, error: Exception) -> None:
        """Go on without a worker; raises the error if it was the last one.

        Its process lives on without work, so that no other worker of the run gets its device. If
        its node is unfit, it starts again on another one, now or when there is room.
        """
        self.available.discard(worker)
        worker.ready = False
        facts = {"error": type(error).__name__, "message": str(error)}
        self._on_event(EventKind.WORKER_DROPPED, node=worker.node, **facts)
        if isinstance(error, NodeUnfit):
            is_coming = self._start_elsewhere(worker)
        else:
            is_coming = any(map(self._is_coming, self._all))
        if not is_coming and not any(other.ready for other in self._all):
            raise error
        logger.warning("going on without a worker: %s", error)

    def _start_elsewhere(self, worker: WorkerState) -> bool:
        """Replace a worker whose node is unfit; False if no other node could ever hold one."""
        if worker.node:
            self._unfit.add(worker.node)
        claim = worker_resources(self._settings, ray.nodes())
        if not any(fits(claim, node) for node in living_resources(self._unfit)):
            return False
        ray.kill(worker.actor)
        [worker.actor] = self._actors(1)
        self.start(worker)
        return True

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
                self.leave(worker)
                self._on_event(EventKind.NODE_DRAINING, node=worker.node)
            if worker.ready and worker.leaving and not worker.held and worker.start_at is None:
                worker.start_at = now + _RETURN_SECONDS
                if worker.node in self._draining:  # Ray ends a draining node that is idle
                    ray.kill(worker.actor, no_restart=False)
            if worker.start_at is not None and now >= worker.start_at:
                self.start(worker)
        self._restart_stalled(now)
        self._grow(now)
        record(WORKERS_READY, len(self.available))

    def _restart_stalled(self, now: float) -> None:
        """Kill the workers that have made no progress for too long."""
        asked = {worker.heartbeat: worker for worker in self._all if worker.heartbeat}
        for reference in _returned(list(asked)):
            worker = asked[reference]
            worker.heartbeat = None
            with suppress(RayError):  # the results of its shards will show that it died
                progress, refused = ray.get(reference)
                if progress != worker.progress:
                    worker.progress, worker.progress_at = progress, now
                self._tell_refused(refused)
        turns = ceil(len(self._all) / _HEARTBEATS)
        self._checks += 1
        for number, worker in enumerate(self._all):
            if worker in self.available:
                self._watch(worker, now, number % turns == self._checks % turns)

    def _watch(self, worker: WorkerState, now: float, is_its_turn: bool) -> None:
        stall = self._settings.stall_seconds
        idle = now - worker.progress_at if worker.held else 0.0
        if idle > stall:
            worker.kill_reason = f"no progress for {idle:.0f} s"
            worker.progress_at = now
            ray.kill(worker.actor, no_restart=False)
        elif worker.heartbeat is None and (is_its_turn or idle > stall / 2):
            worker.heartbeat = worker.actor.heartbeat.remote()

    def _tell_refused(self, nodes: dict[str, str]) -> None:
        """Warn once of each node on which nothing is decoded."""
        for node in nodes.keys() - self._cannot_decode:
            self._cannot_decode.add(node)
            self._on_event(EventKind.NODE_REFUSED, node=node, message=nodes[node])
            logger.warning("decoding on other nodes: %s", nodes[node])

    def _grow(self, now: float) -> None:
        """Use the GPUs of nodes that joined late, unless the number of workers is fixed."""
        if now < self._grow_at or not self._may_grow:
            return
        self._grow_at = now + _GROW_SECONDS
        gpus = (node.get("GPU", 0) for node in living_resources())
        wanted = sum(int(each / self._settings.num_gpus) for each in gpus)
        if (more := wanted - len(self._all)) > 0:
            self._on_event(EventKind.WORKERS_ADDED, count=more)
            self._add(more)


def _fitting(settings: WorkerSettings, may_join: bool) -> int:
    """How many workers fit on the cluster; raises `InputError` if none does.

    If nodes may join, it returns 0 after a warning.
    """
    nodes = living_resources()
    try:
        count = worker_count(settings.num_gpus, nodes)
        if not has_autoscaler():
            check_decode_cpus(settings, nodes)
    except InputError as error:
        if not may_join:
            raise
        logger.warning("waiting for nodes: %s", str(error).partition(";")[0])
        return 0
    return count


def _returned(references: list[ray.ObjectRef]) -> list[ray.ObjectRef]:
    """Those that have an answer."""
    if not references:
        return []
    return list(ray.wait(references, num_returns=len(references), timeout=0)[0])
