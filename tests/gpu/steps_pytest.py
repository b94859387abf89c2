"""The tests of this folder that need a GPU; without one they are collected and skipped."""

import subprocess
import sys
import time
from importlib.util import find_spec

from tests.gpu.kit import ROOT, emit, seconds_left, sized

FOLDER = "tests/gpu"
ON_RAY = "test_ray.py"
DRY_RUN = "test_measure.py"  # of this kit, on a CPU
_SHOWN = (" passed", " failed", " skipped")


def in_one_process() -> None:
    processes = ["-n", "4"] if sized(find_spec("xdist"), None) else []
    others = [f"--ignore={FOLDER}/{name}" for name in (ON_RAY, DRY_RUN)]
    run_pytest(FOLDER, *others, "-k", "not compiled", *processes)


def on_ray() -> None:
    run_pytest(f"{FOLDER}/{ON_RAY}")


def compiled() -> None:
    run_pytest(f"{FOLDER}/test_encode.py", "-k", "compiled")


def run_pytest(*arguments: str) -> None:
    """Run pytest without the conftest, which needs libraries for S3."""
    options = ["--noconftest", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider"]
    options += ["-o", "addopts=--import-mode=importlib", "--durations=5"]
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
