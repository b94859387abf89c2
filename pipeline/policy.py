"""What to do about a shard that failed: decided here by a pure function, done by the runner."""

from enum import Enum

from pipeline.errors import (
    SpeechmillError,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageNotFound,
    StreamBroken,
    WorkerLost,
)
from speech_codecs.errors import CodecError


class Action(Enum):
    """The consequence of a failure."""

    RETRY = "retry"
    GIVE_UP = "give up"  # on this shard; the run goes on
    ABORT = "abort"  # every other shard would fail in the same way


# The first row that fits decides.
_ACTIONS: tuple[tuple[type[Exception], Action], ...] = (
    (StorageDenied, Action.ABORT),
    (StorageFull, Action.ABORT),
    (CodecError, Action.ABORT),
    (StorageNotFound, Action.GIVE_UP),
    (StorageError, Action.RETRY),
    (WorkerLost, Action.RETRY),
    (StreamBroken, Action.RETRY),
    (SpeechmillError, Action.GIVE_UP),
)


def decide(error: Exception, attempts: int, max_attempts: int) -> Action:
    """Choose what follows the `attempts`-th failure of one shard (the first is 1)."""
    action = next((a for kind, a in _ACTIONS if isinstance(error, kind)), Action.GIVE_UP)
    if action is Action.RETRY and attempts >= max_attempts:
        return Action.GIVE_UP
    return action
