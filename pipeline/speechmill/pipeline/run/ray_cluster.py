"""A Ray cluster: joining or starting it, its nodes, its errors and its metrics."""

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import grpc
import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import AuthenticationError, RayError, RayTaskError
from ray.util.metrics import Counter, Gauge

from speechmill.pipeline import metrics
from speechmill.pipeline.errors import InputError, StreamBroken, WorkerLost
from speechmill.pipeline.redaction import is_harmless_variable, public_text, remember_environment
from speechmill.pipeline.run.job import RaySettings
from speechmill.pipeline.run.ray_local import (
    ALLOCATOR,
    QUIET,
    driver_settings,
    load_authentication,
    local_cluster,
    own_token,
    private_folder,
)

_CONNECT_SECONDS = 10.0  # for a head node that is still starting
_PING = "/ray.rpc.NodeInfoGcsService/CheckAlive"
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
    _wait_for_answer(address)
    with private_folder() as folder:  # until the end, so that nobody else makes one of that name
        try:
            _join(cluster, address, folder)
            yield
        finally:
            ray.shutdown()


def _join(cluster: RaySettings, address: str, folder: Path) -> None:
    """Pass on only the variables that everybody on the cluster may see; `set_environment` has all.

    Some of them must be set when a process starts.
    """
    load_authentication()
    harmless = {
        name: value
        for name, value in cluster.env.items()
        if is_harmless_variable(name) and public_text(value) == value
    }
    environment = {"env_vars": ALLOCATOR | harmless}
    try:
        check_token(address, own_token())
        with driver_settings(folder):
            ray.init(address=address, runtime_env=environment, **QUIET)
    except AuthenticationError as error:
        raise _refused(address) from error
    except RuntimeError as error:
        if not str(error).startswith("Version mismatch"):
            raise
        raise _other_version(address, str(error)) from error
    except ConnectionError as error:
        is_refused = "InvalidAuthToken" in str(error.__cause__)
        raise _refused(address) if is_refused else _no_cluster(error) from error


def _wait_for_answer(address: str) -> None:
    """Raise `InputError` if nothing listens at host:port; Ray itself says so after 40 s."""
    url = _parsed(address)
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


def check_token(address: str, token: str) -> None:
    """Raise `InputError` if a cluster refuses a token; Ray would log twenty attempts before."""
    url = _parsed(address)
    if not url.port or url.scheme or os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    headers = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_PING)(b"", timeout=_CONNECT_SECONDS, metadata=headers)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise _refused(address) from None


def _parsed(address: str) -> SplitResult:
    return urlsplit(address if "://" in address else f"//{address}")


def _refused(address: str) -> InputError:
    return InputError(
        f"the Ray cluster at {address} refuses this run: the token is missing or wrong; set "
        "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the token of the cluster"
    )


def _other_version(address: str, message: str) -> InputError:
    """The error in place of Ray's, which has six lines."""
    ray_there, python_there, ray_here, python_here = re.findall(r"(?:Ray|Python): (\S+)", message)
    return InputError(
        f"the cluster at {address} has Ray {ray_there} and Python {python_there}, this process Ray "
        f"{ray_here} and Python {python_here}; install the same on both"
    )


def _no_cluster(why: object) -> InputError:
    return InputError(f"{why}; start Ray there, or set ray.address=null to start a local cluster")
