"""Which positions of an epoch belong to which consumer."""

from dataclasses import dataclass
from enum import StrEnum

import torch.distributed
from torch.utils.data import get_worker_info

from speechmill.pipeline.dataset.reader.intervals import Intervals, counted, size
from speechmill.pipeline.errors import InputError


class Tail(StrEnum):
    """What happens to the rows that cannot be shared out equally."""

    KEEP = "keep"  # some consumers get one row more
    DROP = "drop"  # the last rows of the order are left out of this epoch: fewer than consumers
    PAD = "pad"  # consumers with one row fewer also get a row of a neighbour


@dataclass(frozen=True, slots=True)
class Split:
    """One consumer among all: a worker of a DataLoader on a rank."""

    rank: int
    world_size: int
    worker: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        for name, value, count in (
            ("rank", self.rank, self.world_size),
            ("worker", self.worker, self.num_workers),
        ):
            if not 0 <= value < count:
                raise InputError(f"{name} is {value} of {count}; it counts from 0 to {count - 1}")

    @property
    def index(self) -> int:
        return self.rank * self.num_workers + self.worker

    @property
    def count(self) -> int:
        return self.world_size * self.num_workers

    def share(self, positions: Intervals, tail: Tail) -> Intervals:
        """The positions of this consumer: a stretch, so that it reads each window once."""
        total = size(positions)
        if tail == Tail.DROP:
            total -= total % self.count
        first, last = total * self.index // self.count, total * (self.index + 1) // self.count
        if tail == Tail.PAD and last - first < -(-total // self.count):
            first, last = (first - 1, last) if first else (first, last + 1)
        return counted(positions, first, last)


def ranks_here(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """The rank and the number of ranks, by default those of torch.distributed."""
    if rank is not None and world_size is not None:
        return rank, world_size
    if rank is not None or world_size is not None:
        raise InputError(f"rank is {rank} and world_size {world_size}; set both or neither")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def split_here(rank: int, world_size: int) -> Split:
    """The consumer that this process is: the rank itself, or a worker of its DataLoader."""
    worker = get_worker_info()
    if worker is None:
        return Split(rank, world_size)
    return Split(rank, world_size, worker.id, worker.num_workers)
