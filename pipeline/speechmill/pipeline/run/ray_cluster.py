"""A Ray cluster: joining or starting it, its nodes, its errors and its metrics."""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import AuthenticationError, RayError, RayTaskError
from ray.util.metrics import Counter, Gauge

from speechmill.pipeline import metrics
from speechmill.pipeline.errors import InputError, StreamBroken, WorkerLost
from speechmill.pipeline.redaction import is_harmless_variable, public_text, remember_environment
from speechmill.pipeline.run.job import RaySettings
from speechmill.pipeline.run.ray_address import not_a_node, reachable_cluster, refused
from speechmill.pipeline.run.ray_local import (
    ALLOCATOR,
    QUIET,
    driver_settings,
    environment,
    local_cluster,
    private_folder,
)

_PROBE_SECONDS = 1.0  # a live node accepts a connection within this time


@contextmanager
def connected(cluster: RaySettings) -> Iterator[None]:
    """Connect to the cluster of the settings, or start a local one for this run.

    Raises `InputError` if no cluster answers, or if it refuses the token of this process.
    """
    remember_environment(cluster.env)
    address = cluster.address
    with _joined(cluster, address) if address else local_cluster(cluster):
        yield


def set_environment(variables: dict[str, str]) -> None:
    """Set variables in a worker; Ray would show them in its table of jobs, and log them."""
    remember_environment(variables)
    os.environ.update(variables)


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


@contextmanager
def _joined(cluster: RaySettings, address: str) -> Iterator[None]:
    with private_folder() as folder:  # until the end, so that nobody else makes one of that name
        try:
            _join(cluster, reachable_cluster(address), folder)
            yield
        finally:
            ray.shutdown()


def _join(cluster: RaySettings, address: str, folder: Path) -> None:
    """Pass on only the variables that everybody on the cluster may see; `set_environment` has all.

    Some of them must be set when a process starts.
    """
    harmless = {
        name: value
        for name, value in cluster.env.items()
        if is_harmless_variable(name) and public_text(value) == value
    }
    variables = ALLOCATOR | _variables_of_the_job() | harmless
    # Ray refuses a driver that sets a variable which `ray job submit --runtime-env-json` also sets.
    override = {"RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
    try:
        with driver_settings(folder), environment(override):
            ray.init(address=address, runtime_env={"env_vars": variables}, **QUIET)
    except (AuthenticationError, ConnectionError) as error:
        if "InvalidAuthToken" in f"{error} {error.__cause__}":  # with TLS only Ray has asked
            raise refused(address) from error
        raise InputError(f"the Ray cluster at {address} cannot be joined: {error}") from error
    except RuntimeError as error:
        if str(error).startswith("Version mismatch"):
            raise _other_version(address, str(error)) from error
        if "No node info found" in str(error):
            raise not_a_node(address) from error
        raise


def _variables_of_the_job() -> dict[str, str]:
    """The variables that whoever submitted this process as a Ray job set for its workers."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return dict((job.get("runtime_env") or {}).get("env_vars") or {})


def _other_version(address: str, message: str) -> InputError:
    """The error in place of Ray's, which has six lines."""
    ray_there, python_there, ray_here, python_here = re.findall(r"(?:Ray|Python): (\S+)", message)
    return InputError(
        f"the cluster at {address} has Ray {ray_there} and Python {python_there}, this process Ray "
        f"{ray_here} and Python {python_here}; install the same on both"
    )
