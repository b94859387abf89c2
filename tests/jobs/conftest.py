"""The command line, run as users run it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from typer.testing import CliRunner, Result

from speechmill.jobs.cli import app
from speechmill.pipeline.storage import Storage

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "speechmill.jobs.cli", *arguments]


def invoke(*arguments: Any) -> Result:
    """Run the command line in this process, which saves the seconds of importing torch."""
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[Any]") -> None:
    """Wait until a process that runs has come so far; only pytest's timeout limits it."""
    while True:
        ended = process.poll()  # first: it may do what we wait for, and end, while we look
        if condition():
            return
        assert ended is None, f"the process ended with {ended} before that"
        time.sleep(0.05)


def contents(storage: Storage, output: str) -> dict[str, bytes]:
    """Every part, table of rejects and record of a failure, by its name below the output."""
    folders = [f"{output}/{name}" for name in ("tokens", "rejects", "failed")]
    files = [file for folder in folders for file in storage.list_files(folder)]
    return {file.url.removeprefix(output): storage.read_bytes(file.url) for file in files}


@pytest.fixture(scope="session")
def speechmill(aws_environment: None) -> Command:
    """Run the command line; returns the finished process with its output as text."""

    def run(*arguments: Any, environment: dict[str, str] | None = None):
        return subprocess.run(
            command(*map(str, arguments)),
            env=os.environ | (environment or {}),
            capture_output=True,
            text=True,
        )

    return run


def write_config(
    folder: Path,
    cluster: Cluster,
    shards: Any,
    output: Any,
    codec: str = "null",
    environment: dict[str, str] | None = None,
) -> Path:
    """Write a configuration that tokenizes on the standing cluster; returns its path."""
    path = folder / f"{codec}.yaml"
    path.write_text(
        f"shards: ['{shards}']\noutput: '{output}'\ncodec: {{name: '{codec}'}}\n"
        "workers: {num_gpus: 0}\n"
        f"ray: {{address: '{cluster.address}', env: {environment or {}}}}\n"
    )
    return path


@pytest.fixture
def config(tmp_path: Path, cluster: Cluster) -> Callable[..., Path]:
    """Write a configuration; the arguments are those of `write_config` from the shards on."""
    return partial(write_config, tmp_path, cluster)
