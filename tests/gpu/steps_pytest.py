"""The tests of this folder that need a GPU; without one they are collected and skipped."""

import subprocess
import sys
import time
from importlib.util import find_spec

from tests.gpu.kit import ROOT, emit, seconds_left, sized

TESTS = "tests/gpu/test_encode.py"
_SHOWN = (" passed", " failed", " skipped")


def all_but_compiled() -> None:
    processes = ["-n", "6"] if sized(find_spec("xdist"), None) else []
    run_pytest(TESTS, "-k", "not compiled", *processes)


def compiled() -> None:
    run_pytest(TESTS, "-k", "compiled")


def run_pytest(*arguments: str) -> None:
    """Run pytest without the conftest, which needs libraries for S3."""
    options = ["--noconftest", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider"]
    options += ["-o", "addopts=--import-mode=importlib"]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    limit = max(5, seconds_left() - 3)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    lines = [
        line
        for line in done.stdout.splitlines()
        if line.startswith(("FAILED", "ERROR", "E  ")) or any(word in line for word in _SHOWN)
    ]
    seconds = round(time.perf_counter() - started, 1)
    emit(step="pytest", rc=done.returncode, seconds=seconds, lines=lines[-25:])
