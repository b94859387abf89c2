"""Ranges of an object that threads fetch while its reader uses the ones before."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

RANGE_BYTES = 8 * 2**20  # of one request
# The first range is short, so that reading begins early, and each of the next is twice as long: it
# comes about when its reader has used the one before.
_FIRST_BYTES = 2**20
_LEAST, _MOST = 3, 6  # ranges at once

Fetch = Callable[[int, int], bytes]


def count_ranges(size: int) -> int:
    """How many requests read an object of `size` bytes from front to back."""
    count, position, length = 1, _FIRST_BYTES, _FIRST_BYTES
    while position < size:
        length = min(2 * length, RANGE_BYTES)
        position += length
        count += 1
    return count


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of an object from `start` to before `end`, which come or came."""

    start: int
    end: int
    data: Future[bytes]


class ReadAhead:
    """Fetches three ranges at once, and one more each time that the reader has to wait.

    So a store that is near costs little memory, and one that is far sends as much as is needed.
    After a jump it begins with one short range. `fetch` is called from threads.
    """

    def __init__(self, fetch: Fetch, stop: int):
        """`fetch` returns the bytes from a start to before an end; none are read after `stop`."""
        self._fetch = fetch
        self._stop = stop
        self._begun: deque[Range] = deque()  # adjacent ranges
        self._next = 0
        self._length = _FIRST_BYTES  # of the next range
        self._at_once = _LEAST

    def take(self, position: int) -> Range:
        """The range that holds the byte at `position`; those after it are begun."""
        while self._begun and self._begun[0].end <= position:
            self._begun.popleft()
        if not self._begun or position < self._begun[0].start:
            self._at_once = _LEAST if position == self._next else 1
            self._begun.clear()
            self._next, self._length = position, _FIRST_BYTES
            self._begin()
        taken = self._begun.popleft()
        if not taken.data.done():
            self._at_once = min(self._at_once + 1, _MOST)
        self._begin_more()
        return taken

    def _begin_more(self) -> None:
        while len(self._begun) < self._at_once and self._next < self._stop:
            self._begin()

    def _begin(self) -> None:
        begun = Range(self._next, min(self._next + self._length, self._stop), Future())
        # A daemon: a request that hangs must not keep the process from ending.
        threading.Thread(target=_run, args=(self._fetch, begun), daemon=True).start()
        self._begun.append(begun)
        self._next = begun.end
        self._length = min(2 * self._length, RANGE_BYTES)


def _run(fetch: Fetch, begun: Range) -> None:
    try:
        begun.data.set_result(fetch(begun.start, begun.end))
    except BaseException as error:
        begun.data.set_exception(error)
