"""The tests of this folder that need a GPU; without one they are collected and skipped."""

import subprocess
import sys
import tempfile
import time

from tests.gpu.kit import ROOT, emit, seconds_left

FOLDER = "tests/gpu"
# The most wanted first, in case that the time ends.
FILES = ("test_graphs.py", "test_fixed_shapes.py", "test_batch_encoder.py", "test_encode.py")
ON_RAY = "test_ray.py"
_SHOWN = (" passed", " failed", " skipped", " FAILED", " ERROR")
_STARTS = ("FAILED", "ERROR", "E  ")


def in_one_process() -> None:
    run_pytest(*(f"{FOLDER}/{name}" for name in FILES), "-k", "not compiled")


def on_ray() -> None:
    run_pytest(f"{FOLDER}/{ON_RAY}")


def compiled() -> None:
    run_pytest(f"{FOLDER}/test_encode.py", "-k", "compiled")


def run_pytest(*arguments: str) -> None:
    """Run pytest without the conftest, which needs libraries for S3."""
    options = ["--noconftest", "-v", "--no-header", "--tb=short", "-p", "no:cacheprovider"]
    options += ["-o", "addopts=--import-mode=importlib", "--durations=5"]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    started = time.perf_counter()
    code, output = run_at_most(command, max(5, seconds_left() - 3))
    print(output[-12_000:], flush=True)
    lines = [
        line
        for line in output.splitlines()
        if line.startswith(_STARTS) or any(word in line for word in _SHOWN)
    ]
    seconds = round(time.perf_counter() - started, 1)
    passed = output.count(" PASSED")
    emit(step="pytest", rc=code, seconds=seconds, passed=passed, lines=lines[-25:])


def run_at_most(command: list[str], seconds: float) -> tuple[int | str, str]:
    """Return the exit code, or "timeout", and what was printed until then."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
        try:
            code: int | str = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = "timeout"
        output.seek(0)
        return code, output.read()
