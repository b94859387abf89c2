"""What to do about a failure: decided here by pure functions, done by the runner.

Each kind of fault is retried in one place. `pipeline.storage` retries a storage operation that met
a temporary fault; an operation that still fails is not worth another attempt of its shard. The
runner retries a shard that was lost with its process.
"""

from dataclasses import dataclass, replace
from enum import Enum

from speechmill.codecs.errors import CodecError
from speechmill.pipeline.errors import (
    BucketNotFound,
    DeviceBroken,
    NodeLost,
    ShardError,
    SpeechmillError,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageNotFound,
    StorageUnavailable,
    StreamBroken,
    WorkerLost,
)
from speechmill.pipeline.retry import Backoff

_SUSPECT_AFTER = 2  # losses in company


class Action(Enum):
    """The consequence of a failure."""

    RETRY = "retry"
    GIVE_UP = "give up"  # on this shard; the run goes on
    ABORT = "abort"  # every other shard would fail in the same way


@dataclass
class RunSettings:
    """How much may go wrong, and how long anything may take, before something is done about it."""

    max_attempts: int = 3  # failures of one shard before it is given up on
    max_losses: int = 20  # times a shard may be lost by what need not be its own fault
    grace_seconds: float = 20.0  # for the shards in flight, after SIGTERM
    straggler_factor: float | None = 3.0  # times the usual, then a shard runs a second time
    straggler_seconds: float = 60.0  # no shard is called slow before this
    stall_seconds: float = 900.0  # a worker without progress for so long is started anew


RETRY_SHARD = Backoff(first=1.0, longest=60.0)


@dataclass(frozen=True, slots=True)
class Failures:
    """How often one shard came back without a part, by whose fault that can have been."""

    own: int = 0  # nothing else was there to blame
    in_company: int = 0  # its worker died with other shards at hand, any of which may be the cause
    with_node: int = 0

    @property
    def total(self) -> int:
        return self.own + self.in_company + self.with_node

    @property
    def suspected(self) -> bool:
        """Whether it should run alone, so that it is known who kills the workers."""
        return self.in_company >= _SUSPECT_AFTER

    def after(self, error: Exception, in_company: bool) -> "Failures":
        """The count with one more failure."""
        if isinstance(error, NodeLost):
            return replace(self, with_node=self.with_node + 1)
        if isinstance(error, (WorkerLost, DeviceBroken)) and in_company:
            return replace(self, in_company=self.in_company + 1)
        return replace(self, own=self.own + 1)


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows, when, and why."""

    action: Action
    reason: str
    delay: float = 0.0  # s


# The first row that fits decides.
_RULES: tuple[tuple[type[Exception], Action, str], ...] = (
    (StorageDenied, Action.ABORT, "no other shard would be let in either"),
    (StorageFull, Action.ABORT, "no other part could be written either"),
    (BucketNotFound, Action.ABORT, "a bucket is missing, not an object"),
    (CodecError, Action.ABORT, "the codec would fail on any shard"),
    (StorageNotFound, Action.GIVE_UP, "an object that was listed is gone"),
    (StorageUnavailable, Action.GIVE_UP, "storage was tried for as long as its patience lasts"),
    (StorageError, Action.RETRY, "a fault of storage that no rule names may pass"),
    (NodeLost, Action.RETRY, "the node is at fault, not the shard"),
    (WorkerLost, Action.RETRY, "the worker died"),
    (DeviceBroken, Action.RETRY, "the worker is started anew"),
    (StreamBroken, Action.RETRY, "the process that decoded it died"),
    (ShardError, Action.GIVE_UP, "the tar itself is at fault"),
    (SpeechmillError, Action.GIVE_UP, "the fault would come again"),
    (Exception, Action.GIVE_UP, "an error that no rule names"),
)


def decide(error: Exception, failures: Failures, settings: RunSettings, key: str) -> Decision:
    """Choose what follows a failure of a shard; `failures` counts it already."""
    action, reason = next((a, r) for kind, a, r in _RULES if isinstance(error, kind))
    if action is not Action.RETRY:
        return Decision(action, reason)
    if failures.own >= settings.max_attempts:
        return Decision(Action.GIVE_UP, f"{failures.own} failures of its own")
    if failures.total >= settings.max_losses:
        return Decision(Action.GIVE_UP, f"lost {failures.total} times")
    if failures.suspected:
        reason = f"{reason}, {failures.in_company} times around it: next it runs alone"
    return Decision(action, reason, RETRY_SHARD.delay(key, failures.total))
