"""Ranges of an object that threads fetch while its reader uses the ones before."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from math import ceil

RANGE_BYTES = 8 * 2**20  # of one request
_FIRST_BYTES = 2**20  # of the first range: it is short, so that reading begins early
_LEAST, _MOST = 2, 6  # ranges at once

Fetch = Callable[[int, int], bytes]


def count_ranges(size: int) -> int:
    """How many requests read an object of `size` bytes from front to back."""
    return 1 + max(0, ceil((size - _FIRST_BYTES) / RANGE_BYTES))


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of an object from `start` to before `end`, which come or came."""

    start: int
    end: int
    data: Future[bytes]


class ReadAhead:
    """Fetches two ranges at once, and one more each time that the reader has to wait.

    So a store that is near costs little memory, and one that is far sends as much as is needed.
    After a jump it begins with one short range. `fetch` is called from threads.
    """

    def __init__(self, fetch: Fetch, stop: int, position: int = 0):
        """Begin at once if the first bytes that are missing are at a `position` other than 0."""
        self._fetch = fetch
        self._stop = stop
        self._begun: deque[Range] = deque()  # adjacent ranges
        self._next = position
        self._at_once = _LEAST
        if position:
            self._begin_more()

    def take(self, position: int) -> Range:
        """The range that holds the byte at `position`; those after it are begun."""
        while self._begun and self._begun[0].end <= position:
            self._begun.popleft()
        if not self._begun or position < self._begun[0].start:
            self._at_once = _LEAST if position == self._next else 1
            self._begun.clear()
            self._next = position
            self._begin(_FIRST_BYTES)
        taken = self._begun.popleft()
        if not taken.data.done():
            self._at_once = min(self._at_once + 1, _MOST)
        self._begin_more()
        return taken

    def _begin_more(self) -> None:
        while len(self._begun) < self._at_once and self._next < self._stop:
            self._begin(RANGE_BYTES)

    def _begin(self, size: int) -> None:
        begun = Range(self._next, min(self._next + size, self._stop), Future())
        # A daemon: a request that hangs must not keep the process from ending.
        threading.Thread(target=_run, args=(self._fetch, begun), daemon=True).start()
        self._begun.append(begun)
        self._next = begun.end


def _run(fetch: Fetch, begun: Range) -> None:
    try:
        begun.data.set_result(fetch(begun.start, begun.end))
    except BaseException as error:
        begun.data.set_exception(error)
