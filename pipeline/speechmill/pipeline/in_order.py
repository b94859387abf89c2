"""Work in threads, some steps ahead of those who need the results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


def in_order(
    jobs: Iterable[JobT],
    work: Callable[[JobT], ResultT],
    num_bytes: Callable[[JobT], int],
    max_bytes: int,
    *,
    threads: int,
    wait: bool = True,
) -> Iterator[ResultT]:
    """The results in the order of the jobs; those that were begun have `max_bytes`, or are one.

    If it is closed early, it waits for the jobs that run, unless `wait` is false.
    """
    begun: deque[tuple[int, Future[ResultT]]] = deque()
    held = 0
    pool = ThreadPoolExecutor(threads, thread_name_prefix="in-order")
    try:
        for job in jobs:
            size = num_bytes(job)
            while begun and held + size > max_bytes:
                first, future = begun.popleft()
                yield future.result()
                held -= first
            begun.append((size, pool.submit(work, job)))
            held += size
        while begun:
            yield begun.popleft()[1].result()
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)
