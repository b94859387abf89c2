"""The calls to actors whose answers the driver waits for."""

from contextlib import suppress
from queue import Empty, SimpleQueue

import ray


class PendingCalls:
    """Tells which calls have returned, at a cost that does not depend on how many have not.

    `ray.wait` looks at every reference that it is given: at 12,000 of them for 12 ms each time.
    """

    def __init__(self) -> None:
        self._returned: SimpleQueue[ray.ObjectRef] = SimpleQueue()

    def add(self, reference: ray.ObjectRef) -> None:
        """Also wait for this call, whether it returns or raises."""
        reference.future().add_done_callback(lambda _: self._returned.put(reference))

    def wait(self, timeout: float) -> list[ray.ObjectRef]:
        """Block until a call has returned, then give all that have, each once and in that order."""
        try:
            returned = [self._returned.get(timeout=timeout)]
        except Empty:
            return []
        with suppress(Empty):
            while True:
                returned.append(self._returned.get_nowait())
        return returned
