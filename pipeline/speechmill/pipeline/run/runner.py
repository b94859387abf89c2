"""Hands shards to workers and acts on the results."""

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Protocol

from speechmill.pipeline.errors import RunStopped
from speechmill.pipeline.run.policy import Action, Failures, RunSettings, decide
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.writer import ShardReport

_LATEST = 101  # finished shards; the median of their times per byte is the usual time
_MIN_FINISHED = 3
_POLL_SECONDS = 1.0  # between checks of the stop signal
_STRAGGLER_CHECK_SECONDS = 1.0
_MOST_COPIES = 3  # of one shard at a time: the worker of a copy may be as slow as the first


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The report of a shard that was committed, or the error that ended it."""

    shard: Shard
    report: ShardReport | None = None
    error: Exception | None = None
    shared_loss: bool = False  # the worker held other shards when it was lost
    node: str | None = None  # of the worker


class Pool(Protocol):
    """Workers that process shards, wherever they run."""

    def free(self, exclusive: bool = False) -> int:
        """How many more shards the workers that are ready can take now.

        With `exclusive`, how many of these workers hold no shard.
        """
        ...

    def submit(self, shard: Shard, exclusive: bool = False) -> None:
        """Give a shard to a free worker; with `exclusive`, the worker takes no other beside it."""
        ...

    def can_copy(self, shard: Shard) -> bool:
        """Whether another worker is free, so that `submit` can run this shard a second time."""
        ...

    def wait(self, timeout: float | None = None) -> list[ShardResult]:
        """Block until a shard ends, a worker becomes ready or `timeout` seconds pass.

        The list may be empty. Raises the error that kept the workers from starting when none is
        left that could start.
        """
        ...


class EventKind(StrEnum):
    """The events of a run, as `events.jsonl` names them."""

    RUN_STARTED = "run started"
    RUN_ENDED = "run ended"
    COMMITTED = "committed"
    RETRY = "retry"
    GIVE_UP = "give up"
    ABORT = "abort"
    COPY = "copy"  # a slow shard runs once more, beside its first run
    WORKER_READY = "worker ready"
    WORKER_LOST = "worker lost"
    WORKER_DROPPED = "worker dropped"  # it cannot load its codec, or computes wrongly
    WORKERS_ADDED = "workers added"
    NODE_DRAINING = "node draining"
    NODE_REFUSED = "node refused"  # its versions are not those of the run: it decodes nothing


@dataclass(frozen=True, slots=True)
class Event:
    """A decision about a shard, for the run's log and the progress display."""

    kind: EventKind
    shard: Shard
    attempts: int
    report: ShardReport | None = None
    error: Exception | None = None
    reason: str = ""
    delay: float = 0.0  # s until the next attempt
    node: str | None = None  # of the worker


@dataclass(slots=True)
class Totals:
    """Counts and times of a run so far."""

    shards: int = 0  # committed
    failed: int = 0  # given up on
    retries: int = 0
    rows: int = 0
    frames: int = 0
    audio_seconds: float = 0.0
    encode_seconds: float = 0.0  # summed over workers, like the next five
    starved_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_cpu_seconds: float = 0.0
    read_seconds: float = 0.0  # part of decode_seconds
    write_seconds: float = 0.0
    bad_json: int = 0
    cleaned: int = 0  # names and texts with U+FFFD for what is not UTF-8
    passed_over: int = 0  # members that macOS added
    rejects: dict[str, int] = field(default_factory=dict)  # by error class

    def add(self, event: Event) -> None:
        self.failed += event.kind == EventKind.GIVE_UP
        self.retries += event.kind == EventKind.RETRY
        if event.report:
            self.shards += 1
            self.rows += event.report.rows
            self.frames += event.report.frames
            self.audio_seconds += event.report.audio_seconds
            self.encode_seconds += event.report.encode_seconds
            self.starved_seconds += event.report.starved_seconds
            self.decode_seconds += event.report.decode_seconds
            self.decode_cpu_seconds += event.report.decode_cpu_seconds
            self.read_seconds += event.report.read_seconds
            self.write_seconds += event.report.write_seconds
            self.bad_json += event.report.num_bad_json
            self.cleaned += event.report.num_cleaned
            self.passed_over += event.report.num_passed_over
            for error, count in event.report.rejects.items():
                self.rejects[error] = self.rejects.get(error, 0) + count


def run(
    shards: Iterable[Shard],
    pool: Pool,
    settings: RunSettings,
    on_event: Callable[[Event], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Process every shard, or give up on it after `settings.max_attempts` failures.

    Once `should_stop` returns true, no more shards are submitted. Raises `RunStopped` when those
    in flight have ended or the grace time is over, and any error after which no other shard could
    succeed; a resumed run then does the shards without a part.
    """
    _Run(shards, pool, settings, on_event, clock, should_stop).finish()


@dataclass(slots=True)
class _InFlight:
    copies: int
    started: float


class _Run:
    def __init__(
        self,
        shards: Iterable[Shard],
        pool: Pool,
        settings: RunSettings,
        on_event: Callable[[Event], None],
        clock: Callable[[], float],
        should_stop: Callable[[], bool],
    ):
        self.queue = deque(shards)
        self.delayed: list[tuple[float, str, Shard]] = []  # a heap, by time
        self.suspects: deque[Shard] = deque()
        self.in_flight: dict[Shard, _InFlight] = {}  # in the order of their start
        self.failures: dict[Shard, Failures] = {}
        self.seconds_per_byte: deque[float] = deque(maxlen=_LATEST)
        self.pool = pool
        self.settings = settings
        self.on_event = on_event
        self.clock = clock
        self.should_stop = should_stop
        self.stop_at: float | None = None
        self.next_straggler_check = 0.0

    def finish(self) -> None:
        while self.queue or self.delayed or self.suspects or self.in_flight:
            if self._stopped():
                raise RunStopped("stopped by a signal; run the same command again to resume")
            if self.stop_at is None:
                self._submit_all()
            for result in self.pool.wait(self._timeout()):
                self._handle(result)

    def _stopped(self) -> bool:
        if self.stop_at is None and self.should_stop():
            self.stop_at = self.clock() + self.settings.grace_seconds
        return self.stop_at is not None and (not self.in_flight or self.clock() >= self.stop_at)

    def _timeout(self) -> float:
        now = self.clock()
        due = [now + _POLL_SECONDS] if self.stop_at is None else [self.stop_at]
        if self.delayed:
            due.append(self.delayed[0][0])
        if self._may_copy():
            due.append(self.next_straggler_check)
        return max(0.0, min(due) - now)

    def _submit_all(self) -> None:
        while self.delayed and self.delayed[0][0] <= self.clock():
            shard = heapq.heappop(self.delayed)[2]
            suspected = self.failures[shard].suspected
            (self.suspects if suspected else self.queue).append(shard)
        while self.queue and (free := self.pool.free()):
            for _ in range(min(free, len(self.queue))):
                self._submit(self.queue.popleft())
        while self.suspects and not self.queue and self.pool.free(exclusive=True):
            self._submit(self.suspects.popleft(), exclusive=True)
        if self._may_copy() and self.clock() >= self.next_straggler_check:
            self._copy_stragglers()

    def _submit(self, shard: Shard, exclusive: bool = False) -> None:
        self.pool.submit(shard, exclusive)
        self.in_flight[shard] = _InFlight(1, self.clock())

    def _may_copy(self) -> bool:
        """Only at the end of a run: before it, a free worker has a shard of its own to do."""
        waiting = self.queue or self.suspects or self.stop_at is not None
        enough = self.settings.straggler_factor and len(self.seconds_per_byte) >= _MIN_FINISHED
        return bool(self.in_flight and enough and not waiting)

    def _copy_stragglers(self) -> None:
        self.next_straggler_check = self.clock() + _STRAGGLER_CHECK_SECONDS
        slow = median(self.seconds_per_byte) * (self.settings.straggler_factor or 0)
        for shard, running in self.in_flight.items():
            age, limit = self.clock() - running.started, slow * shard.size * running.copies
            if age < self.settings.straggler_seconds:
                break
            may_copy = running.copies < _MOST_COPIES and age >= limit
            if not may_copy or not self.pool.can_copy(shard):
                continue
            self.pool.submit(shard)
            running.copies += 1
            reason = f"has run for {age:.0f} s, expected at most {limit:.0f} s"
            self.on_event(Event(EventKind.COPY, shard, self._attempts(shard), reason=reason))

    def _attempts(self, shard: Shard) -> int:
        return self.failures.get(shard, Failures()).total + 1

    def _handle(self, result: ShardResult) -> None:
        """If a shard ran twice, the first success wins; only the last failure counts."""
        shard = result.shard
        running = self.in_flight.get(shard)
        if running is None:
            return
        running.copies -= 1
        if result.error is None:
            del self.in_flight[shard]
            self._note_time(shard, self.clock() - running.started)
            attempts, node = self._attempts(shard), result.node
            self.on_event(Event(EventKind.COMMITTED, shard, attempts, result.report, node=node))
            self.failures.pop(shard, None)
        elif not running.copies:
            del self.in_flight[shard]
            self._fail(shard, result.error, result.shared_loss)

    def _note_time(self, shard: Shard, seconds: float) -> None:
        """Not at the end of a long run, where slow shards end last and would seem usual."""
        if self.queue or len(self.seconds_per_byte) < _LATEST:
            self.seconds_per_byte.append(seconds / max(shard.size, 1))

    def _fail(self, shard: Shard, error: Exception, shared_loss: bool) -> None:
        failures = self.failures.get(shard, Failures()).after(error, shared_loss)
        self.failures[shard] = failures
        decision = decide(error, failures, self.settings, shard.name)
        self.on_event(
            Event(
                EventKind(decision.action),
                shard,
                failures.total,
                error=error,
                reason=decision.reason,
                delay=decision.delay,
            )
        )
        if decision.action is Action.ABORT:
            raise error
        if decision.action is Action.RETRY:
            heapq.heappush(self.delayed, (self.clock() + decision.delay, shard.name, shard))
