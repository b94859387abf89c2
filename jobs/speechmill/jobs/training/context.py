"""One worker of a training run: its rank, its device, and its exchange with the other workers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The place of a worker among all of them."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = _CPU
    should_stop: Callable[[], bool] = lambda: False

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def parallel(self, module: nn.Module) -> nn.Module:
        """Return the module with gradients averaged over all workers."""
        if self.world_size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, devices, broadcast_buffers=False)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers, by rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def exchange(self, metrics: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return how many workers should stop, and the metrics averaged over all workers.

        All workers get the same; it stays on the device. They must have the same metrics.
        """
        stop = torch.full((), float(self.should_stop()), device=self.device)
        if self.world_size == 1:
            return stop, dict(metrics)
        sums = torch.stack([stop, *(value.detach().float() for value in metrics.values())])
        dist.all_reduce(sums)
        means = (sums[1:] / self.world_size).unbind()
        return sums[0], dict(zip(metrics, means, strict=True))

    def seed_step(self, seed: int, step: int) -> None:
        """Seed torch's generator for a step of this worker, the same in every run."""
        torch.manual_seed(step_seed(seed, step, self.rank))


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Return the seed of torch's generator at a step; negative steps come before a phase."""
    entropy = (seed, step + 2**32, rank)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
