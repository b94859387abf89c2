"""A Ray cluster on this machine for one run, which no one else can reach.

It listens on 127.0.0.1 alone, asks every caller for a token that only its own processes know, and
keeps its sockets and logs in a folder of this user, which is removed at the end.
"""

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import ray

from speechmill.pipeline.errors import InputError
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
QUIET = {"log_to_driver": False, "logging_level": "error"}
_ADDRESS = "127.0.0.1"
_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
# torch's workers meet on this interface too.
_LOOPBACK = {"GLOO_SOCKET_IFNAME": _INTERFACE, "NCCL_SOCKET_IFNAME": _INTERFACE}
_PREFIX, _RAY = "ray-", "r"  # names of folders
# Bytes: the path of a socket has at most 103, of which Ray adds 66, and 8 make a name unique.
_LONGEST_PARENT = 103 - 66 - len(f"/{_PREFIX}/{_RAY}") - 8


@contextmanager
def local_cluster(cluster: RaySettings) -> Iterator[None]:
    """Start Ray for the block; raises `InputError` if no folder is fit for its sockets."""
    with private_folder() as folder, _token() as token:
        try:
            with driver_settings(folder):
                _start(cluster, folder, token)
            yield
        finally:
            ray.shutdown()


def _start(cluster: RaySettings, folder: Path, token: dict[str, str]) -> None:
    """Processes of a local cluster inherit variables; a runtime_env costs each over a second."""
    variables = {"RAY_USAGE_STATS_ENABLED": "0"} | ALLOCATOR | _LOOPBACK | cluster.env | token
    # Ray replaces 127.0.0.1 by the address of the network, except on Windows and macOS. With any
    # other address, even of the loopback, its processes listen on every network.
    constants: Any = ray._private.ray_constants
    with environment(variables), _replaced(constants, "ENABLE_RAY_CLUSTER", False):
        ray.init(
            address="local",  # otherwise Ray would join a cluster that happens to run here
            num_cpus=cluster.num_cpus,
            include_dashboard=False,
            _node_ip_address=_ADDRESS,
            _temp_dir=str(folder / _RAY),  # Ray opens it to everyone, but not what it is in
            **QUIET,
        )


@contextmanager
def driver_settings(folder: Path) -> Iterator[None]:
    """Keep the driver's folder and its command line from the cluster while Ray connects.

    Ray puts the driver's working directory on the `sys.path` of every worker. It is an empty
    folder here, so that no module in a user's folder replaces one of ours. Ray's table of jobs
    shows the command line, on which secrets may be typed.
    """
    empty = folder / "empty"
    empty.mkdir()
    with chdir(empty), _replaced(ray._private.utils, "get_entrypoint_name", lambda: "speechmill"):
        yield


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can enter, with a path that is short enough for sockets."""
    parents = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    fit = [each for each in parents if _is_short(each) and os.access(each, os.W_OK | os.X_OK)]
    if not fit:
        raise InputError(
            f"{parents[0]} is too long a path for the sockets of Ray, and /tmp cannot be written; "
            f"set TMPDIR to a folder of at most {_LONGEST_PARENT} bytes, or workers.count=0 to run "
            "without Ray"
        )
    # Processes that Ray has killed may still be writing.
    with tempfile.TemporaryDirectory("", _PREFIX, fit[0], ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _is_short(parent: Path) -> bool:
    return len(os.fsencode(parent)) <= _LONGEST_PARENT


@contextmanager
def _token() -> Iterator[dict[str, str]]:
    """Use a fresh token until the end of the block, whatever the environment says.

    It is passed on in the environment, which other users cannot read, and never in a file.
    """
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        with environment(token):
            load_authentication()
        yield token
    finally:
        load_authentication()


def load_authentication() -> None:
    """Let Ray read mode and token from the environment again; it keeps those it saw first."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def own_token() -> str:
    """The token that this process sends; empty if it has none, or sends none."""
    loader = ray._raylet.AuthenticationTokenLoader.instance()
    return str(loader.get_raw_token()) if loader.has_token() else ""


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables of this process for the block."""
    before = os.environ.copy()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
