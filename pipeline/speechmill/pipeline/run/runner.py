"""Hands shards to workers and acts on what comes back."""

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from speechmill.pipeline.errors import RunStopped
from speechmill.pipeline.run.policy import Action, Failures, RunSettings, decide
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.writer import ShardReport

_PACES = 101  # latest shards whose median is the usual pace
_MIN_PACES = 3
_POLL_SECONDS = 1.0  # between looks at whether to stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """One shard came back: with a report, or with the error that ended it."""

    shard: Shard
    report: ShardReport | None = None
    error: Exception | None = None
    in_company: bool = False  # other shards were lost with the same worker


class Pool(Protocol):
    """Workers that tokenize shards, wherever they run."""

    def free(self, alone: bool = False) -> int:
        """How many more shards the workers that are ready could take now.

        With `alone`, how many of them have nothing to do.
        """
        ...

    def submit(self, shard: Shard, alone: bool = False) -> None:
        """Give a shard to a worker that is free; with `alone`, it gets no other meanwhile."""
        ...

    def can_copy(self, shard: Shard) -> bool:
        """Whether a worker that is free does not run this shard, so that `submit` runs it twice."""
        ...

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Block until a shard came back, a worker got ready or `timeout` seconds went by.

        May give an empty list. Raises what kept the workers from starting when none is left that
        could.
        """
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """A decision of the runner, for the run's log and the progress display."""

    kind: str  # committed | retry | give up | abort | copy
    shard: Shard
    attempts: int
    report: ShardReport | None = None
    error: Exception | None = None
    reason: str = ""
    delay: float = 0.0  # s until the next try


@dataclass(slots=True)
class Totals:
    """What a run has done so far."""

    shards: int = 0  # committed
    failed: int = 0  # given up on
    retries: int = 0
    rows: int = 0
    frames: int = 0
    audio_seconds: float = 0.0
    encode_seconds: float = 0.0  # summed over workers, as the next three
    starved_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_cpu_seconds: float = 0.0
    bad_json: int = 0
    rejects: dict[str, int] = field(default_factory=dict)  # by error class

    def add(self, event: Event) -> None:
        self.failed += event.kind == Action.GIVE_UP.value
        self.retries += event.kind == Action.RETRY.value
        if event.report:
            self.shards += 1
            self.rows += event.report.rows
            self.frames += event.report.frames
            self.audio_seconds += event.report.audio_seconds
            self.encode_seconds += event.report.encode_seconds
            self.starved_seconds += event.report.starved_seconds
            self.decode_seconds += event.report.decode_seconds
            self.decode_cpu_seconds += event.report.decode_cpu_seconds
            self.bad_json += event.report.num_bad_json
            for error, count in event.report.rejects.items():
                self.rejects[error] = self.rejects.get(error, 0) + count


def run(
    shards: Iterable[Shard],
    pool: Pool,
    settings: RunSettings,
    on_event: Callable[[Event], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Tokenize every shard, or give up on it after `settings.max_attempts` failures.

    Once `stopping` says so, no shard is handed out any more. Raises `RunStopped` when those in
    flight are done or their grace is over, and any error that makes going on pointless; shards
    without a part are then left to a resume.
    """
    _Run(shards, pool, settings, on_event, clock, stopping).finish()


@dataclass(slots=True)
class _Flight:
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
        stopping: Callable[[], bool],
    ):
        self.queue = deque(shards)
        self.delayed: list[tuple[float, str, Shard]] = []  # a heap, by time
        self.suspects: deque[Shard] = deque()
        self.flights: dict[Shard, _Flight] = {}  # in the order of their start
        self.failures: dict[Shard, Failures] = {}
        self.paces: deque[float] = deque(maxlen=_PACES)  # s per byte
        self.pool = pool
        self.settings = settings
        self.on_event = on_event
        self.clock = clock
        self.stopping = stopping
        self.stop_at: float | None = None
        self.look_at = 0.0  # when to look for stragglers again

    def finish(self) -> None:
        while self.queue or self.delayed or self.suspects or self.flights:
            if self._stopped():
                raise RunStopped("told to stop; run the same command again to resume")
            if self.stop_at is None:
                self._hand_out()
            for outcome in self.pool.wait(self._timeout()):
                self._take(outcome)

    def _stopped(self) -> bool:
        if self.stop_at is None and self.stopping():
            self.stop_at = self.clock() + self.settings.grace_seconds
        return self.stop_at is not None and (not self.flights or self.clock() >= self.stop_at)

    def _timeout(self) -> float:
        now = self.clock()
        due = [now + _POLL_SECONDS] if self.stop_at is None else [self.stop_at]
        if self.delayed:
            due.append(self.delayed[0][0])
        if self._may_copy():
            due.append(self.look_at)
        return max(0.0, min(due) - now)

    def _hand_out(self) -> None:
        while self.delayed and self.delayed[0][0] <= self.clock():
            shard = heapq.heappop(self.delayed)[2]
            suspected = self.failures[shard].suspected
            (self.suspects if suspected else self.queue).append(shard)
        while self.queue and (free := self.pool.free()):
            for _ in range(min(free, len(self.queue))):
                self._submit(self.queue.popleft())
        while self.suspects and not self.queue and self.pool.free(alone=True):
            self._submit(self.suspects.popleft(), alone=True)
        if self._may_copy() and self.clock() >= self.look_at:
            self._copy_stragglers()

    def _submit(self, shard: Shard, alone: bool = False) -> None:
        self.pool.submit(shard, alone)
        self.flights[shard] = _Flight(1, self.clock())

    def _may_copy(self) -> bool:
        """Only at the tail: before it, whoever is free has a shard of its own to do."""
        waiting = self.queue or self.suspects or self.stop_at is not None
        enough = self.settings.straggler_factor and len(self.paces) >= _MIN_PACES
        return bool(self.flights and enough and not waiting)

    def _copy_stragglers(self) -> None:
        self.look_at = self.clock() + 1.0
        pace = median(self.paces) * (self.settings.straggler_factor or 0)
        for shard, flight in self.flights.items():
            age = self.clock() - flight.started
            if age < self.settings.straggler_seconds:
                break
            if flight.copies > 1 or age < pace * shard.size or not self.pool.can_copy(shard):
                continue
            self.pool.submit(shard)
            flight.copies += 1
            reason = f"runs for {age:.0f} s, {pace * shard.size:.0f} s are due at most"
            self.on_event(Event("copy", shard, self._attempts(shard), reason=reason))

    def _attempts(self, shard: Shard) -> int:
        return self.failures.get(shard, Failures()).total + 1

    def _take(self, outcome: Outcome) -> None:
        """Act on a shard that came back; of two copies the first part and the last error count."""
        shard = outcome.shard
        flight = self.flights.get(shard)
        if flight is None:
            return
        flight.copies -= 1
        if outcome.error is None:
            del self.flights[shard]
            self.paces.append((self.clock() - flight.started) / max(shard.size, 1))
            self.on_event(Event("committed", shard, self._attempts(shard), outcome.report))
            self.failures.pop(shard, None)
        elif not flight.copies:
            del self.flights[shard]
            self._fail(shard, outcome.error, outcome.in_company)

    def _fail(self, shard: Shard, error: Exception, in_company: bool) -> None:
        failures = self.failures.get(shard, Failures()).after(error, in_company)
        self.failures[shard] = failures
        decision = decide(error, failures, self.settings, shard.name)
        self.on_event(
            Event(
                decision.action.value,
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
