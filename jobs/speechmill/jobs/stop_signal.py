"""SIGTERM as a request to end soon, and well."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
