"""What every run over shards does beside its work: stop on a signal, and record failures."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from speechmill.jobs.display import UNREACHABLE
from speechmill.pipeline.dataset.layout import ShardOutput
from speechmill.pipeline.errors import StorageError
from speechmill.pipeline.run.runner import Event, EventKind
from speechmill.pipeline.shards.listing import Shard


def require_parts(shards: Iterable[Shard], output: ShardOutput) -> None:
    """Raise `StorageError` if a shard that was committed has no part at the output."""
    if missing := sorted({shard.name for shard in shards} - output.parts()):
        raise StorageError(
            f"{len(missing)} parts were committed, but are not at {output.root}, such as "
            f"{missing[0]}; {UNREACHABLE}"
        )


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGTERM came; a second one interrupts at once."""
    received = threading.Event()

    def stop(*_: object) -> None:
        if received.is_set():
            raise KeyboardInterrupt
        received.set()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def keep_failures(event: Event, output: ShardOutput, failed: dict[str, list[str]]) -> None:
    """Keep `failed/` to the shards that are failed now."""
    if event.kind == EventKind.GIVE_UP:
        record = {
            "shard": event.shard.url,
            "error": type(event.error).__name__,
            "message": str(event.error),
            "reason": event.reason,
            "attempts": event.attempts,
        }
        output.mark_failed(event.shard, record)
    elif event.kind == EventKind.COMMITTED:
        clear_failures(event.shard, output, failed)


def clear_failures(shard: Shard, output: ShardOutput, failed: dict[str, list[str]]) -> None:
    """Whatever version of the tar it was that failed."""
    for name in failed.pop(shard.url, []):
        output.clear_failed(name)
