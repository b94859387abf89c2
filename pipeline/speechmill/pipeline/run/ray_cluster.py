"""Joining a Ray cluster, or starting a local one, and leaving it again."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from typing import Any
from urllib.parse import urlsplit

import ray

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.run.job import RaySettings

# glibc returns every large buffer to the kernel by default, which made FocalCodec 4.7 times slower.
# Only the main arena respects the thresholds, and a worker computes in threads.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
_CONNECT_SECONDS = 10.0  # for a head node that is being started
_PROBE_SECONDS = 1.0  # in which a node that lives accepts a connection


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
    place = urlsplit(address if "://" in address else f"//{address}")
    if not place.port:
        return
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((place.hostname, place.port), _CONNECT_SECONDS).close()
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
