"""A Ray cluster: joining or starting it, its nodes, its errors and its metrics."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError, RayTaskError
from ray.util.metrics import Counter, Gauge

from speechmill.pipeline import metrics
from speechmill.pipeline.errors import InputError, StreamBroken, WorkerLost
from speechmill.pipeline.run.job import RaySettings

# glibc returns every large buffer to the kernel by default, which made FocalCodec 4.7 times slower.
# Only the main arena respects the thresholds, and a worker computes in threads; a worker on a GPU
# computes elsewhere, and `ray_gpu_worker` lifts that limit for it.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
_CONNECT_SECONDS = 10.0  # for a head node that is still starting
_PROBE_SECONDS = 1.0  # a live node accepts a connection within this time


@contextmanager
def connected(cluster: RaySettings) -> Iterator[None]:
    """Connect to the cluster of the settings, or start a local one for this run.

    Ray puts the driver's working directory on the `sys.path` of every worker. It is an empty
    folder while Ray starts, so that no module in a user's folder replaces one of ours. Raises
    `InputError` if no cluster answers.
    """
    with tempfile.TemporaryDirectory(prefix="speechmill-ray-") as empty:
        try:
            with chdir(empty):
                _join(cluster) if cluster.address else _start(cluster)
            yield
        finally:
            ray.shutdown()


def is_gone(node: str | None) -> bool:
    """Whether a node no longer answers; Ray itself needs half a minute to notice."""
    info = next((each for each in ray.nodes() if each["NodeID"] == node), None)
    if info is None or not info["Alive"]:
        return True
    try:
        address = (info["NodeManagerAddress"], info["NodeManagerPort"])
        socket.create_connection(address, timeout=_PROBE_SECONDS).close()
    except OSError:
        return True
    return False


def draining_nodes() -> set[str]:
    """The ids of the nodes that Ray is about to take away."""
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return {node.node_id for node in status.active_nodes if node.node_status == "DRAINING"}


def wrapped_errors(error: BaseException) -> list[BaseException]:
    """An error and all errors that Ray wrapped in it, outermost first."""
    found = [error]
    for each in found:
        inner = [getattr(each, "cause", None), each.__cause__]
        inner += getattr(each, "worker_failures", {}).values()
        found += [one for one in inner if isinstance(one, BaseException) and one not in found]
    return found


def task_error(error: RayTaskError) -> Exception:
    """The exception that a task raised; a failure of Ray itself becomes `StreamBroken`."""
    wrapped = (each for each in wrapped_errors(error) if not isinstance(each, RayTaskError))
    cause = next(wrapped, None)
    if isinstance(cause, RayError):
        return StreamBroken(f"{type(cause).__name__}: {cause}")
    return cause if isinstance(cause, Exception) else WorkerLost(str(error))


def export_metrics() -> None:
    """Show what this process records at the Prometheus endpoint of its node.

    Ray must be connected. Prometheus sees `ray_speechmill_<name>`, with `_total` after the names of
    counters and with Ray's labels for the node and the worker.
    """
    metrics.send_to(_show)


def _show(metric: metrics.TimeSeries, value: float, labels: dict[str, str]) -> None:
    series = _series(metric)
    if isinstance(series, Gauge):
        series.set(value, tags=labels)
    elif value > 0:  # Ray refuses to count nothing
        series.inc(value, tags=labels)


@cache
def _series(metric: metrics.TimeSeries) -> Counter | Gauge:
    kind = Gauge if metric.is_gauge else Counter
    return kind(f"speechmill_{metric.name}", description=metric.help, tag_keys=metric.labels)


def _join(cluster: RaySettings) -> None:
    assert cluster.address
    _wait_for_answer(cluster.address)
    try:
        env = {"env_vars": ALLOCATOR | cluster.env}
        ray.init(address=cluster.address, runtime_env=env, **_quiet())
    except ConnectionError as error:
        raise _no_cluster(error) from error


def _start(cluster: RaySettings) -> None:
    """Processes of a local cluster inherit variables; a runtime_env costs each over a second."""
    with _environment({"RAY_USAGE_STATS_ENABLED": "0"} | ALLOCATOR | cluster.env):
        ray.init(
            address="local",  # otherwise Ray would join a cluster that happens to run here
            num_cpus=cluster.num_cpus,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            **_quiet(),
        )


def _quiet() -> dict[str, Any]:
    return {"log_to_driver": False, "logging_level": "error"}


def _wait_for_answer(address: str) -> None:
    """Raise `InputError` if nothing listens at host:port; Ray itself says so after 40 s."""
    url = urlsplit(address if "://" in address else f"//{address}")
    if not url.port:
        return
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((url.hostname, url.port), _CONNECT_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise _no_cluster(f"no Ray cluster answers at {address}: {error}") from error
            time.sleep(0.5)


def _no_cluster(why: object) -> InputError:
    return InputError(f"{why}; start Ray there, or set ray.address=null to start a local cluster")


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = os.environ.copy()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
