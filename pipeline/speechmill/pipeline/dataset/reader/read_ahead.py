"""Work that is done some steps before its results are needed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

_THREADS = 2  # one waits for the store while the other decompresses


def read_ahead(
    jobs: Iterable[JobT],
    read: Callable[[JobT], ResultT],
    num_bytes: Callable[[JobT], int],
    max_bytes: int,
) -> Iterator[ResultT]:
    """The results in the order of the jobs; those that wait have `max_bytes`, or are one."""
    waiting: deque[tuple[int, Future[ResultT]]] = deque()
    held, source = 0, iter(jobs)
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="read-ahead")
    try:
        while True:
            while held < max_bytes or not waiting:
                try:
                    job = next(source)
                except StopIteration:
                    break
                waiting.append((num_bytes(job), threads.submit(read, job)))
                held += waiting[-1][0]
            if not waiting:
                return
            size, future = waiting.popleft()
            yield future.result()
            held -= size
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
