"""What a worker on a GPU claims and sets; no GPU is needed."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from speechmill.pipeline.run.job import WorkerSettings
from speechmill.pipeline.run.ray_gpu_worker import prepare_process, worker_resources


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("num_gpus", "nodes", "num_cpus"),
    [
        (1, [node(CPU=16, GPU=8), node(CPU=64)], 1),
        (0.5, [node(CPU=16, GPU=8)], 0),  # 16 workers would leave no CPU to a decode stream
        (1, [node(CPU=1, GPU=1), node(CPU=16, GPU=1)], 0),
        (1, [node(CPU=2, GPU=1), node(alive=False, CPU=1, GPU=1)], 1),
        (0, [node(CPU=2)], 0),
    ],
)
def test_a_worker_claims_a_cpu_only_where_every_worker_and_a_decode_stream_fit(
    num_gpus: float, nodes: list[dict[str, Any]], num_cpus: int
) -> None:
    options = worker_resources(WorkerSettings(num_gpus=num_gpus), nodes)
    assert (options["num_gpus"], options["num_cpus"]) == (num_gpus, num_cpus)
    assert ("runtime_env" in options) == (num_gpus > 0)


@pytest.fixture
def switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize(("share", "limits"), [(0.25, [0.25]), (1, [])])
def test_a_worker_on_a_share_of_a_gpu_leaves_the_rest_of_its_memory_to_others(
    share: float, limits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", taken.append)
    prepare_process(share)
    assert taken == limits
    assert sys.getswitchinterval() < 0.001
