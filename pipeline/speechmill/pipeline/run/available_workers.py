"""The workers that take shards, by how many of their slots are in use."""

from collections.abc import Container, Iterator
from typing import Generic, Protocol, TypeVar


class HasSlots(Protocol):
    """A worker; `held` counts its slots in use."""

    held: int


Worker = TypeVar("Worker", bound=HasSlots)


class AvailableWorkers(Generic[Worker]):
    """Finds the least loaded of thousands of workers in a time that depends only on their slots."""

    def __init__(self, slots: int):
        """Every worker has this many slots."""
        self.slots = slots
        # By slots in use; a dict keeps the order in which they came to that number.
        self._by_held: list[dict[Worker, None]] = [{} for _ in range(slots + 1)]

    def add(self, worker: Worker) -> None:
        self._by_held[worker.held][worker] = None

    def discard(self, worker: Worker) -> None:
        self._by_held[worker.held].pop(worker, None)

    def hold(self, worker: Worker, slots: int) -> None:
        """Note that a worker, available or not, uses so many slots more, or fewer below 0."""
        was_available = worker in self
        self.discard(worker)
        worker.held += slots
        if was_available:
            self.add(worker)

    def free_slots(self) -> int:
        return sum((self.slots - held) * len(each) for held, each in enumerate(self._by_held))

    def without_shards(self) -> int:
        """How many workers use no slot."""
        return len(self._by_held[0])

    def least_loaded(self, besides: Container[Worker] = ()) -> Worker | None:
        """The worker with the most free slots that is not in `besides`; None if none has one."""
        free = (worker for workers in self._by_held[:-1] for worker in workers)
        return next((worker for worker in free if worker not in besides), None)

    def __contains__(self, worker: Worker) -> bool:
        return worker in self._by_held[worker.held]

    def __len__(self) -> int:
        return sum(map(len, self._by_held))

    def __iter__(self) -> Iterator[Worker]:
        return (worker for workers in self._by_held for worker in workers)
