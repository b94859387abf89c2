"""A worker on a GPU, or on a share of one, as a Ray actor."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from speechmill.pipeline.run.job import WorkerSettings
from speechmill.pipeline.run.ray_worker import Worker

# Seconds a thread keeps the interpreter. A thread that feeds a GPU needs it for each kernel: with
# Python's 5 ms and one busy thread beside it, a batch takes 3.4 to 4.4 times as long on the host.
_SWITCH_SECONDS = 1e-4
# The limit of one arena is for codecs that compute on the CPU; here threads would wait for each
# other. glibc ignores 0, so it sets no limit.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "0"}

Options = dict[str, Any]


class GPUWorker(Worker):
    """A worker whose threads give way to the one that feeds the GPU."""

    def load(self) -> None:
        """Load the models into this worker's share of the memory of the GPU."""
        prepare_process(self.settings.num_gpus)
        super().load()


def prepare_process(share: float) -> None:
    """Let threads take turns quickly, and leave the rest of the GPU's memory to other workers."""
    import torch

    sys.setswitchinterval(_SWITCH_SECONDS)
    if share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def worker_resources(settings: WorkerSettings, nodes: Sequence[Mapping[str, Any]]) -> Options:
    """Return the options of an actor that name its resources; `nodes` are those of `ray.nodes()`.

    A worker on a GPU claims a CPU, so that decode streams leave it a core, unless a node with GPUs
    would then lack CPUs for all its workers and a decode stream.
    """
    if not settings.num_gpus:
        return {"num_gpus": 0, "num_cpus": 0}
    living = [node["Resources"] for node in nodes if node["Alive"]]
    enough = all(_has_cpus(settings, each) for each in living if each.get("GPU"))
    environment = {"env_vars": _ENVIRONMENT}
    return {"num_gpus": settings.num_gpus, "num_cpus": int(enough), "runtime_env": environment}


def _has_cpus(settings: WorkerSettings, resources: Mapping[str, float]) -> bool:
    workers = int(resources["GPU"] / settings.num_gpus)
    return resources.get("CPU", 0) >= workers + settings.decode_cpus
