"""A Ray cluster of two nodes on this machine that asks for a token."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_HEAD, _WORKER = "127.0.0.31", "127.0.0.32"
_STARTED = re.compile("Ray runtime started")
_SMALL = ["--object-store-memory=100000000", "--disable-usage-stats", "--block"]


@dataclass(frozen=True)
class AuthenticatedCluster:
    """Where it is, and the environment of a pod of it."""

    address: str
    dashboard: str
    environment: dict[str, str]
    raylet: psutil.Process  # of the worker node

    def run(self, *command: str, timeout: float = 120) -> str:
        """Run a command as in a pod; returns what it prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def authenticated_cluster(head_variables: dict[str, str]) -> Iterator[AuthenticatedCluster]:
    """Start a head that runs no work, and a worker with two CPUs; they end with the block."""
    folder = Path(tempfile.mkdtemp(prefix="sm-", dir="/tmp"))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    gcs, dashboard, agent, client = _free_ports(4)
    address = f"{_HEAD}:{gcs}"
    head = [f"--node-ip-address={_HEAD}", "--head", "--num-cpus=0", f"--port={gcs}"]
    head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    head += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    head += [f"--temp-dir={folder}/r"]
    worker = [f"--node-ip-address={_WORKER}", "--num-cpus=2", f"--address={address}"]
    worker += ["--dashboard-agent-listen-port=0"]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(_node(head, environment | head_variables, folder / "head.log"))
        node = stack.enter_context(_node(worker, environment, folder / "worker.log"))
        [raylet] = [each for each in node.children(recursive=True) if each.name() == "raylet"]
        environment["RAY_ADDRESS"] = address
        url = f"http://127.0.0.1:{dashboard}"
        yield AuthenticatedCluster(address, url, environment, raylet)


@contextmanager
def _node(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    with log.open("w") as file:
        process = subprocess.Popen(
            ["ray", "start", *arguments, *_SMALL], env=environment, stdout=file, stderr=file
        )
    node = psutil.Process(process.pid)
    try:
        while not _STARTED.search(log.read_text()):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield node
    finally:
        if process.poll() is None:
            for each in [*node.children(recursive=True), node]:
                each.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports below those that Ray gives its workers, 10002 to 19999, and those of the system."""
    with ExitStack() as stack:
        sockets = []
        while len(sockets) < count:
            one = stack.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            if one.getsockname()[1] > 20000:
                sockets.append(one)
        return [one.getsockname()[1] for one in sockets]
