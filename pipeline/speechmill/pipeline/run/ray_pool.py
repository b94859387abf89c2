"""The pool of `speechmill.pipeline.run.runner` on a Ray cluster: its workers are Ray actors.

With `ray_worker` and `ray_metrics` the only modules that import ray.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import ray
from ray._private.state import state as ray_state
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from speechmill.codecs.errors import CodecError
from speechmill.pipeline.errors import DeviceBroken, NodeLost, StreamBroken, WorkerLost
from speechmill.pipeline.retry import Backoff
from speechmill.pipeline.run import ray_metrics
from speechmill.pipeline.run.job import (
    Job,
    RaySettings,
    WorkerSettings,
    shards_in_flight,
    stream_objects,
    worker_count,
)
from speechmill.pipeline.run.ray_cluster import connected, is_gone
from speechmill.pipeline.run.ray_worker import Worker
from speechmill.pipeline.run.runner import Outcome
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.decode import Isolation

_MAX_LOAD_FAILURES = 3
_MAX_EARLY_DEATHS = 5  # one after the other, of a worker before it can say where it is
_LOOK_SECONDS = 1.0  # between looks at the workers
_GROW_SECONDS = 5.0  # between looks at the size of the cluster
_RETURN_SECONDS = 5.0  # between looks whether a worker that left is back elsewhere
_RELOAD = Backoff(first=1.0, longest=30.0)

logger = logging.getLogger(__name__)


Notice = Callable[..., None]  # called with the kind of what happened and its facts


@dataclass(eq=False, slots=True)
class _Seat:
    """What the driver knows of one worker."""

    actor: ActorHandle
    node: str | None = None  # that its process runs on
    ready: bool = False
    held: int = 0  # shards at hand; all that fit, where one must be alone
    leaving: bool = False  # its node is being drained, or it was told so itself
    failures: int = 0  # to load, one after the other
    early_deaths: int = 0
    start_at: float | None = None  # when to try that again
    beat: ray.ObjectRef | None = None  # asked for
    beats: int = -1
    beat_at: float = 0.0  # when `beats` changed
    fault: str = ""  # why the driver killed it


@dataclass(frozen=True, slots=True)
class _Task:
    seat: _Seat
    shard: Shard
    held: int  # by which it fills its seat


class RayPool:
    """The pool of `speechmill.pipeline.run.runner` on a Ray cluster, local or not.

    `notice` is told what happens to the workers.
    """

    def __init__(
        self,
        job: Job,
        settings: WorkerSettings,
        cluster: RaySettings,
        needed: Mapping[Shard, Sequence[int]] | None = None,
        notice: Notice = lambda kind, **facts: None,
    ):
        """`needed` has the codecs, by position, of the shards that not all of them need."""
        self._all = range(job.num_targets)
        self._needed = needed or {}
        self._broken: set[Shard] = set()  # whose decoding ended with its process
        self._job = job
        self._settings = settings
        self._notice = notice
        self._running: dict[ray.ObjectRef, _Task] = {}
        self._holders: defaultdict[Shard, Counter[_Seat]] = defaultdict(Counter)
        self._starting: dict[ray.ObjectRef, _Seat] = {}
        self._seats: list[_Seat] = []
        self._draining: set[str] = set()
        self._look_at = self._grow_at = 0.0
        with ExitStack() as cluster_stack:
            cluster_stack.enter_context(connected(cluster))
            ray_metrics.export()
            resources = ray.cluster_resources()
            count = settings.count or worker_count(settings, resources)
            self._threads = settings.threads or max(1, int(resources.get("CPU", 1) / count))
            self._slots = settings.shards_in_flight or shards_in_flight(settings, resources, count)
            self._add(count)
            self._cluster = cluster_stack.pop_all()

    def free(self, alone: bool = False) -> int:
        if alone:
            return sum(not seat.held for seat in self._ready())
        return sum(self._slots - seat.held for seat in self._ready())

    def submit(self, shard: Shard, alone: bool = False) -> None:
        others = self._without(shard)
        seat = min(others, key=lambda each: each.held)
        held = self._slots if alone else 1
        if not seat.held:
            seat.beat_at = time.monotonic()
        seat.held += held
        needed = self._needed.get(shard, self._all)
        isolation = Isolation.FULL if shard in self._broken else Isolation.WATCHED
        reference = seat.actor.run.remote(shard, isolation, needed)
        self._running[reference] = _Task(seat, shard, held)
        self._holders[shard][seat] += 1

    def can_copy(self, shard: Shard) -> bool:
        return any(seat.held < self._slots for seat in self._without(shard))

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._look_after_workers()
            ready = len(self._ready())
            left = _LOOK_SECONDS if end is None else min(_LOOK_SECONDS, end - time.monotonic())
            finished = _wait([*self._running, *self._starting], max(0.0, left))
            outcomes = [outcome for ref in finished for outcome in self._finish(ref)]
            if outcomes or len(self._ready()) > ready:
                return outcomes
            if end is not None and time.monotonic() >= end:
                return []

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers and their decode streams; parts that are not whole never appear."""
        with self._cluster:
            for seat in self._seats:
                ray.kill(seat.actor)

    def _ready(self) -> list[_Seat]:
        return [seat for seat in self._seats if seat.ready and not seat.leaving]

    def _without(self, shard: Shard) -> list[_Seat]:
        holders = self._holders[shard]
        return [seat for seat in self._ready() if not holders[seat]]

    def _add(self, count: int) -> None:
        """Start more workers, all at the same time."""
        actor = ray.remote(Worker).options(
            num_gpus=self._settings.num_gpus,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=self._slots + 1,
            scheduling_strategy="SPREAD",
        )
        objects = stream_objects(self._job, self._settings, self._slots)
        for _ in range(count):
            seat = _Seat(actor.remote(self._job, self._settings, self._threads, objects))
            self._seats.append(seat)
            self._start(seat)

    def _start(self, seat: _Seat) -> None:
        """Wait for a process, then let it load the codec: so it is known which of both failed."""
        seat.start_at, seat.node, seat.ready = None, None, False
        self._starting[seat.actor.where.remote()] = seat

    def _finish(self, reference: ray.ObjectRef) -> list[Outcome]:
        if reference in self._starting:
            self._finish_start(reference)
            return []
        if reference in self._running:
            return self._finish_shard(reference)
        return []  # lost with its worker, and accounted for

    def _finish_start(self, reference: ray.ObjectRef) -> None:
        seat = self._starting.pop(reference)
        try:
            found = ray.get(reference)
        except RayActorError as error:
            if seat.node is None or is_gone(seat.node):
                self._wait_for_process(seat, error)
            else:
                self._start_again(seat, WorkerLost(f"a worker died while it loaded: {error}"))
        except RayTaskError as error:
            self._start_again(seat, _cause(error))
        else:
            if seat.node is None:
                seat.node = found
                self._starting[seat.actor.load.remote()] = seat
            else:
                self._welcome(seat)

    def _welcome(self, seat: _Seat) -> None:
        seat.ready, seat.leaving, seat.fault = True, seat.node in self._draining, ""
        seat.held = seat.failures = seat.early_deaths = 0
        seat.beats, seat.beat, seat.beat_at = -1, None, time.monotonic()
        self._notice("worker ready", node=seat.node, workers=len(self._ready()))

    def _wait_for_process(self, seat: _Seat, error: RayActorError) -> None:
        """Ray starts it elsewhere, if it can: it cannot where driver and cluster do not agree."""
        seat.early_deaths += not isinstance(error, ActorUnavailableError)  # that may come back
        if seat.early_deaths > _MAX_EARLY_DEATHS and not any(other.ready for other in self._seats):
            raise WorkerLost(f"Ray keeps no worker alive, see its logs for the reason: {error}")
        seat.start_at = time.monotonic() + _LOOK_SECONDS

    def _start_again(self, seat: _Seat, error: Exception) -> None:
        """Try a worker that cannot load some times, then go on without, unless it was the last."""
        if isinstance(error, NodeLost):
            seat.start_at = time.monotonic() + _LOOK_SECONDS
            return
        seat.failures += 1
        if seat.failures < _MAX_LOAD_FAILURES and not isinstance(error, CodecError):
            seat.start_at = time.monotonic() + _RELOAD.delay(self._job.output, seat.failures)
            return
        if not any(other.ready or self._is_coming(other) for other in self._seats):
            raise error
        logger.warning("going on without a worker that cannot load its codec: %s", error)
        self._notice("worker dropped", error=type(error).__name__, message=str(error))

    def _is_coming(self, seat: _Seat) -> bool:
        return seat.start_at is not None or seat in self._starting.values()

    def _finish_shard(self, reference: ray.ObjectRef) -> list[Outcome]:
        task = self._pop(reference)
        try:
            outcome = Outcome(task.shard, ray.get(reference))
        except RayActorError as error:
            return self._restart(task, self._loss(task.seat, error))
        except RayTaskError as error:
            outcome = Outcome(task.shard, error=_cause(error))
        if isinstance(outcome.error, DeviceBroken):
            ray.kill(task.seat.actor, no_restart=False)
            return self._restart(task, outcome.error)
        if isinstance(outcome.error, StreamBroken):
            self._broken.add(task.shard)
        task.seat.leaving |= isinstance(outcome.error, NodeLost)
        task.seat.held -= task.held
        return [outcome]

    def _pop(self, reference: ray.ObjectRef) -> _Task:
        task = self._running.pop(reference)
        holders = self._holders[task.shard]
        holders[task.seat] -= 1
        if not +holders:
            del self._holders[task.shard]
        return task

    def _restart(self, task: _Task, error: Exception) -> list[Outcome]:
        """Ray starts the process again; whatever else it held is lost with it."""
        self._notice("worker lost", node=task.seat.node, message=str(error).splitlines()[0])
        others = [ref for ref, other in self._running.items() if other.seat is task.seat]
        self._start(task.seat)
        loss = error if isinstance(error, WorkerLost) else WorkerLost(str(error))
        shards = [self._pop(reference).shard for reference in others]
        return [
            Outcome(task.shard, error=error, in_company=bool(shards)),
            *(Outcome(shard, error=loss, in_company=True) for shard in shards),
        ]

    def _loss(self, seat: _Seat, error: RayActorError) -> WorkerLost:
        if seat.leaving or error.preempted or is_gone(seat.node):
            return NodeLost(f"node {seat.node} is gone: {error}")
        return WorkerLost(seat.fault or str(error))

    def _look_after_workers(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        self._draining = set(ray_state.get_draining_nodes())
        for seat in self._seats:
            if seat.ready and seat.node in self._draining and not seat.leaving:
                seat.leaving = True
                self._notice("node draining", node=seat.node)
            if seat.ready and seat.leaving and not seat.held and seat.start_at is None:
                seat.start_at = now + _RETURN_SECONDS
            if seat.start_at is not None and now >= seat.start_at:
                self._start(seat)
        self._restart_stalled(now)
        self._grow(now)

    def _restart_stalled(self, now: float) -> None:
        """Kill the workers whose batches have not moved for too long, whatever they are at."""
        asked = {seat.beat: seat for seat in self._seats if seat.beat}
        for reference in _wait(list(asked), 0):
            seat = asked[reference]
            seat.beat = None
            with suppress(RayError):  # a worker that died is found by its shards
                if (beats := ray.get(reference)) != seat.beats:
                    seat.beats, seat.beat_at = beats, now
        for seat in self._ready():
            if seat.held and now - seat.beat_at > self._settings.stall_seconds:
                seat.fault = f"no progress for {now - seat.beat_at:.0f} s"
                seat.beat_at = now
                ray.kill(seat.actor, no_restart=False)
            elif seat.held and seat.beat is None:
                seat.beat = seat.actor.beat.remote()

    def _grow(self, now: float) -> None:
        """Take the GPUs of nodes that joined late, unless the number of workers is fixed."""
        if now < self._grow_at or self._settings.count or not self._settings.num_gpus:
            return
        self._grow_at = now + _GROW_SECONDS
        wanted = int(ray.cluster_resources().get("GPU", 0) / self._settings.num_gpus)
        if (more := wanted - len(self._seats)) > 0:
            self._notice("workers added", count=more)
            self._add(more)


def _wait(references: list[ray.ObjectRef], timeout: float) -> list[ray.ObjectRef]:
    """All that are ready, as soon as one is."""
    if not references:
        time.sleep(timeout)
        return []
    first, _ = ray.wait(references, num_returns=1, timeout=timeout)
    if not first:
        return []
    return list(ray.wait(references, num_returns=len(references), timeout=0)[0])


def _cause(error: RayTaskError) -> Exception:
    """What the task raised, out of Ray's wrapping; Ray's own failures as ours."""
    cause = error.cause
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if isinstance(cause, RayError):
        return StreamBroken(f"{type(cause).__name__}: {cause}")
    return cause if isinstance(cause, Exception) else WorkerLost(str(error))
