"""The processes of one Ray cluster, and of no other one on this machine."""

import signal
import time
from contextlib import suppress

import psutil
import pytest
from ray.cluster_utils import Cluster


def find(cluster: Cluster, title: str) -> list[psutil.Process]:
    """The processes whose title holds a text such as `ray::Worker` or `ray::decode_shard`."""
    children = []
    for node in cluster.list_all_nodes():
        for info in node.all_processes.get("raylet", []):
            with suppress(psutil.NoSuchProcess):
                children += psutil.Process(info.process.pid).children(recursive=True)
    return [child for child in children if title in command_line(child)]


def local_processes() -> list[psutil.Process]:
    """This process, and those of the local cluster that it runs: they alone have a token."""
    children = psutil.Process().children(recursive=True)
    return [psutil.Process(), *(child for child in children if token_of(child))]


def command_line(process: psutil.Process) -> str:
    """Empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def is_raylet(process: psutil.Process) -> bool:
    """False if it has ended."""
    try:
        return process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def token_of(process: psutil.Process) -> str:
    """Empty if it has none or has ended."""
    try:
        return process.environ().get("RAY_AUTH_TOKEN", "")
    except psutil.Error:
        return ""


def listening_addresses(processes: list[psutil.Process]) -> set[str]:
    """The addresses at which they accept connections."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            found |= {
                each.laddr.ip.removeprefix("::ffff:")
                for each in process.net_connections("inet")
                if each.status == psutil.CONN_LISTEN
            }
    return found


def kill(process: psutil.Process, number: int = signal.SIGKILL) -> None:
    """Send a signal, unless it has ended."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def kill_when_it_appears(cluster: Cluster, title: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in find(cluster, title):
            kill(process)
            return
        time.sleep(0.02)
    pytest.fail(f"no process {title}")
