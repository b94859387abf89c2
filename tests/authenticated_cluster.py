"""A Ray cluster of two nodes on this machine that asks for a token."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

from tests.ray_processes import is_raylet

_HEAD, _WORKER = "127.0.0.31", "127.0.0.32"
_ATTEMPTS = 3
_READY_S = 60.0
_SMALL = ["--object-store-memory=100000000", "--disable-usage-stats", "--block"]


@dataclass(frozen=True)
class AuthenticatedCluster:
    """Where it is, and the environment of a pod of it."""

    address: str
    dashboard: str
    environment: dict[str, str]
    raylet: psutil.Process  # of the worker node

    def run(self, *command: str) -> str:
        """Run a command as in a pod; returns what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def nodes(self) -> list[dict[str, Any]]:
        listed = self.run("ray", "list", "nodes", "--address", self.dashboard, "--format", "json")
        return list(json.loads(listed))


@contextmanager
def authenticated_cluster(
    head_variables: dict[str, str], packages: Path
) -> Iterator[AuthenticatedCluster]:
    """Start a head that runs no work, and a worker with two CPUs; they end with the block.

    Python finds more packages in a folder, as if they were installed in the image.
    """
    folder = Path(tempfile.mkdtemp(prefix="sm-", dir="/tmp"))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "PYTHONPATH": str(packages),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_worker_niceness": "0",
    }
    try:
        yield _start(folder, environment, head_variables)
    finally:
        _kill(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _start(
    folder: Path, environment: dict[str, str], head_variables: dict[str, str]
) -> AuthenticatedCluster:
    """Start both nodes, again if need be: on a busy machine Ray may not wait for its own agent."""
    for attempt in range(_ATTEMPTS):
        gcs, dashboard, client = _free_ports(3)
        address = f"{_HEAD}:{gcs}"
        head = ["--head", "--num-cpus=0", f"--port={gcs}", "--dashboard-host=127.0.0.1"]
        head += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        worker = [f"--address={address}", "--num-cpus=2"]
        if _node(_HEAD, head, folder / f"h{attempt}", environment | head_variables) and (
            node := _node(_WORKER, worker, folder / f"w{attempt}", environment)
        ):
            [raylet] = filter(is_raylet, node.children(recursive=True))
            inside = environment | {"RAY_ADDRESS": address}
            return AuthenticatedCluster(address, f"http://127.0.0.1:{dashboard}", inside, raylet)
        _kill(folder)
    raise AssertionError("".join(each.read_text() for each in folder.glob("*.log")))


def _node(
    ip: str, arguments: list[str], folder: Path, environment: dict[str, str]
) -> psutil.Process | None:
    """Start a node and wait until it is ready in the sense of KubeRay; None if it never is.

    It has a folder of its own, as a pod has: Ray unpacks the folder of a job anew on every node.
    """
    [agent] = _free_ports(1)
    command = ["ray", "start", *arguments, f"--node-ip-address={ip}", f"--temp-dir={folder}"]
    command += [f"--dashboard-agent-listen-port={agent}", *_SMALL]
    with folder.with_suffix(".log").open("w") as log:
        process = psutil.Popen(command, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urlopen(f"http://{ip}:{agent}/api/local_raylet_healthz", timeout=5):
            return psutil.Process(process.pid)
        time.sleep(0.1)
    return None


def _kill(folder: Path) -> None:
    """End all processes of the cluster: no others have this folder as their home."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HOME") == str(folder):
                process.kill()


def _free_ports(count: int) -> list[int]:
    """Ports that Ray does not give its workers: those are 10002 to 19999."""
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            one = stack.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            if one.getsockname()[1] > 20000:
                ports.append(one.getsockname()[1])
        return ports
