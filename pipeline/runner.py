"""Hands shards to workers and acts on what comes back."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.policy import Action, decide
from pipeline.shard import Shard
from pipeline.writer import ShardReport


@dataclass(frozen=True, slots=True)
class Outcome:
    """One shard came back: with a report, or with the error that ended it."""

    shard: Shard
    report: ShardReport | None = None
    error: Exception | None = None


class Pool(Protocol):
    """Workers that tokenize shards, wherever they run."""

    def free(self) -> int:
        """How many more shards the workers that are ready could take now."""
        ...

    def submit(self, shard: Shard) -> None: ...

    def wait(self) -> list[Outcome]:
        """Block until a shard came back or a worker got ready (then the list may be empty).

        Raises what kept the workers from starting when none is left that could.
        """
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """A decision of the runner, for the run's log and the progress display."""

    kind: str  # committed | retry | give up | abort
    shard: Shard
    attempts: int
    report: ShardReport | None = None
    error: Exception | None = None


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
    shards: Iterable[Shard], pool: Pool, max_attempts: int, on_event: Callable[[Event], None]
) -> None:
    """Tokenize every shard, or give up on it after `max_attempts` failures.

    Raises the error that makes going on pointless; shards in flight are then left to a resume.
    """
    queue = deque(shards)
    in_flight = 0
    failures: Counter[Shard] = Counter()
    while queue or in_flight:
        while queue and pool.free():
            pool.submit(queue.popleft())
            in_flight += 1
        for outcome in pool.wait():
            in_flight -= 1
            if outcome.error is None:
                attempts = failures[outcome.shard] + 1
                on_event(Event("committed", outcome.shard, attempts, outcome.report))
                continue
            failures[outcome.shard] += 1
            attempts = failures[outcome.shard]
            action = decide(outcome.error, attempts, max_attempts)
            on_event(Event(action.value, outcome.shard, attempts, error=outcome.error))
            if action is Action.ABORT:
                raise outcome.error
            if action is Action.RETRY:
                queue.append(outcome.shard)
