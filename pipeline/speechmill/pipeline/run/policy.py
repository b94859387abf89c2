"""What to do about a failure: pure functions decide, the runner acts.

Each kind of fault is retried in one place. `pipeline.storage` retries a storage operation after a
temporary fault; if it still fails, another attempt at its shard is not worth it. The runner retries
a shard that was lost with its process.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from speechmill.codecs.errors import CodecError
from speechmill.pipeline.errors import (
    BucketNotFound,
    DeviceBroken,
    DeviceWrong,
    NodeLost,
    NodeUnfit,
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

_SUSPECT_AFTER = 2  # shared losses


class Action(StrEnum):
    """The consequence of a failure."""

    RETRY = "retry"
    GIVE_UP = "give up"  # on this shard; the run goes on
    ABORT = "abort"  # every other shard would fail in the same way


@dataclass
class RunSettings:
    """How many failures and how much delay a run tolerates before it reacts."""

    max_attempts: int = 3  # failures of one shard before it is given up on
    max_losses: int = 20  # times a shard may be lost, whoever is at fault
    grace_seconds: float = 20.0  # for the shards in flight, after SIGTERM
    # A shard that takes this many times the usual time runs a second time; null: never.
    straggler_factor: float | None = 3.0
    straggler_seconds: float = 60.0  # a shard is never called slow before this
    stall_seconds: float = 900.0  # a worker without progress for this long is restarted


RETRY_SHARD = Backoff(first=1.0, longest=60.0)


@dataclass(frozen=True, slots=True)
class Failures:
    """How often one shard failed, by possible cause."""

    own: int = 0  # the shard is the only possible cause
    shared: int = 0  # its worker died while it held other shards, any of which may be the cause
    with_node: int = 0  # its worker was lost with the whole node, or computed wrongly

    @property
    def total(self) -> int:
        return self.own + self.shared + self.with_node

    @property
    def suspected(self) -> bool:
        """Whether it should run alone, to find out which shard kills the workers."""
        return self.shared >= _SUSPECT_AFTER

    def after(self, error: Exception, shared_loss: bool) -> "Failures":
        """The count with one more failure."""
        if isinstance(error, (NodeLost, DeviceWrong)):
            return replace(self, with_node=self.with_node + 1)
        if isinstance(error, (WorkerLost, DeviceBroken)) and shared_loss:
            return replace(self, shared=self.shared + 1)
        return replace(self, own=self.own + 1)


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, its reason and its delay."""

    action: Action
    reason: str
    delay: float = 0.0  # s


# The first row that matches decides.
_RULES: tuple[tuple[type[Exception], Action, str], ...] = (
    (StorageDenied, Action.ABORT, "every other shard would be refused too"),
    (StorageFull, Action.ABORT, "another part could not be written either"),
    (BucketNotFound, Action.ABORT, "a bucket is missing, not an object"),
    (CodecError, Action.ABORT, "the codec would fail on any shard"),
    (StorageNotFound, Action.GIVE_UP, "an object that was listed is gone"),
    (StorageUnavailable, Action.GIVE_UP, "storage was retried for storage_patience seconds"),
    (StorageError, Action.RETRY, "an unknown storage fault may be temporary"),
    (NodeUnfit, Action.ABORT, "no node that is left can decode a shard"),
    (NodeLost, Action.RETRY, "the node is at fault, not the shard"),
    (WorkerLost, Action.RETRY, "the worker died"),
    (DeviceBroken, Action.RETRY, "the worker is restarted"),
    (DeviceWrong, Action.RETRY, "the worker is dropped"),
    (StreamBroken, Action.RETRY, "the process that decoded it died"),
    (ShardError, Action.GIVE_UP, "the tar itself is at fault"),
    (SpeechmillError, Action.GIVE_UP, "the same error would come again"),
    (Exception, Action.GIVE_UP, "an unknown error"),
)


def decide(error: Exception, failures: Failures, settings: RunSettings, key: str) -> Decision:
    """Choose the action after a failure of a shard; `failures` already counts it."""
    action, reason = next((a, r) for kind, a, r in _RULES if isinstance(error, kind))
    if action is not Action.RETRY:
        return Decision(action, reason)
    if failures.own >= settings.max_attempts:
        return Decision(Action.GIVE_UP, f"{failures.own} failures of its own")
    if failures.total >= settings.max_losses:
        return Decision(Action.GIVE_UP, f"lost {failures.total} times")
    if failures.suspected:
        reason = f"{reason}, {failures.shared} times shared with other shards: next it runs alone"
    return Decision(action, reason, RETRY_SHARD.delay(key, failures.total))
