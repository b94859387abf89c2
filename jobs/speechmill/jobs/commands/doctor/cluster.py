"""Checks of Ray: the cluster of a run, or the folder of a local one."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from speechmill.jobs.commands.doctor.checks import Said, fault, ok, warning
from speechmill.jobs.report.wording import counted
from speechmill.pipeline.run.job import (
    RaySettings,
    WorkerSettings,
    check_decode_cpus,
    worker_count,
)

if TYPE_CHECKING:
    from speechmill.pipeline.run.ray_survey import RayCluster


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run asks of a cluster; None for `workers` where another command plans its own."""

    ray: RaySettings
    workers: WorkerSettings | None
    num_gpus: float
    packages: tuple[str, ...] = ()  # whose versions must be the same on all nodes


def installed() -> Iterator[Said]:
    """Whether Ray loads; it starts only for a run."""
    import speechmill.pipeline.run.ray_local  # noqa: F401

    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    yield ok(f"{version('ray')}, RAY_AUTH_MODE is {mode}")


def not_used() -> Iterator[Said]:
    """Say that a run goes without Ray."""
    yield ok(f"{version('ray')}, not used: workers.count=0 runs in this process")


def local(wanted: Wanted) -> Iterator[Said]:
    """Whether a cluster of this machine could start."""
    from speechmill.pipeline.run.ray_local import private_folder

    with private_folder() as folder:
        place = folder.parent
    cpus = wanted.ray.num_cpus or os.cpu_count() or 1
    yield ok(f"{version('ray')}, a local cluster for the run in {place}, {cpus} CPUs")
    _check_streams(wanted, [{"CPU": float(cpus)}])


def joined(wanted: Wanted) -> Iterator[Said]:
    """Join the cluster of the run, and compare what it has with what the workers claim."""
    from speechmill.pipeline.run.ray_survey import survey_cluster

    found = survey_cluster(wanted.ray, wanted.packages)
    yield ok(f"{version('ray')}, {_described(found)} at {wanted.ray.address}")
    if not found.asks_for_token:
        yield warning(
            "the cluster asks for no token: whoever reaches its ports can run programs on it; set "
            "RAY_AUTH_MODE=token before `ray start`, see docs/guide/cluster.md"
        )
    yield from _differences(found)
    yield from _workers(wanted, found)
    _check_streams(wanted, [node.resources for node in found.nodes])
    yield from _buffers(wanted, found)


def _described(cluster: "RayCluster") -> str:
    total = cluster.resources
    token = "token accepted" if cluster.asks_for_token else "no token"
    return (
        f"{counted(len(cluster.nodes), 'node')} with {total.get('GPU', 0):g} GPUs and "
        f"{total.get('CPU', 0):g} CPUs, {token},"
    )


def _differences(cluster: "RayCluster") -> Iterator[Said]:
    """The run does nothing on a node whose packages are not those of this process."""
    says = fault if len(cluster.differences) == len(cluster.nodes) else warning
    for node in cluster.differences:
        yield says(f"{node}; the run would do nothing there: install the same on every node")


def _workers(wanted: Wanted, cluster: "RayCluster") -> Iterator[Said]:
    """Raise `InputError` if no worker fits on the GPUs."""
    fit = worker_count(wanted.num_gpus, [node.resources for node in cluster.nodes])
    count = wanted.workers.count if wanted.workers else None
    if wanted.num_gpus and count and count > fit:
        yield warning(
            f"workers.count is {count}, but only {fit} fit on the GPUs; the others wait for nodes "
            "to join, or leave workers.count out"
        )


def _check_streams(wanted: Wanted, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise `InputError` if no node has the CPUs of a decode stream."""
    if wanted.workers:
        check_decode_cpus(wanted.workers, nodes)


def _buffers(wanted: Wanted, cluster: "RayCluster") -> Iterator[Said]:
    """Whether decoded audio that waits fits into the memory of Ray's object store."""
    if wanted.workers is None:
        return
    for node in cluster.nodes:
        on_node = node.resources.get("GPU", 0) / wanted.num_gpus if wanted.num_gpus else 1.0
        buffered = wanted.workers.buffer_mb * 1e6 * on_node
        store = node.resources.get("object_store_memory", buffered)
        if buffered > store:
            yield warning(
                f"the object store of {node.address} has {store / 1e9:.1f} GB, audio that waits "
                f"takes up to {buffered / 1e9:.1f} GB; lower workers.buffer_mb, or give `ray "
                "start` more --object-store-memory"
            )
