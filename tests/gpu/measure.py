"""Measure Speechmill on a GPU: a list of steps, the most wanted first, within a budget of seconds.

    bash tests/gpu/measure.sh                                  on a machine that lacks libraries
    python -m tests.gpu.measure --budget 450 --steps env,codec
    python -m tests.gpu.measure --cpu                          a dry run: tiny networks on a CPU

Each step is a process with a time limit. Each result is a line of $OUT/results.jsonl, the output of
the steps goes to $OUT/measure.log, profiles go to $OUT/profiles.txt. A dry run does all steps in
one process, without limits. README.md explains the steps.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from typing import TextIO

from tests.gpu.kit import DRY_RUN, OUT, ROOT, START, attempt, emit, results

# Seconds at most of each step, the most wanted first.
STEPS = {
    "env": 25,
    "codec:focalcodec-50hz": 65,
    "pytest": 90,
    "codec:simwhisper-16k": 50,
    "feed": 125,
    "codec:dualcodec-12hz": 75,
    "mismatch:pure-16k-small": 20,
    "again:focalcodec-50hz": 20,
    "pytest_ray": 90,
    "micro": 45,
    "train": 45,
    "compile:focalcodec-50hz": 60,
    "codec:pure-4k": 45,
    "codec:hasrd-2k": 60,
    "codec:focalcodec-50hz-4k-causal": 45,
    "compile:simwhisper-16k": 60,
    "raytrain": 60,
    "pytest_compile": 120,
}
FUNCTIONS = {
    "env": "steps_env:env",
    "codec": "steps_codec:codec",
    "mismatch": "mismatch:measure_mismatch",
    "again": "mismatch:again",
    "feed": "steps_ray:feed",
    "micro": "steps_micro:micro",
    "pytest": "steps_pytest:in_one_process",
    "pytest_ray": "steps_pytest:on_ray",
    "train": "steps_train:train",
    "compile": "steps_compile:compile_codec",
    "raytrain": "steps_ray:ray_train",
    "pytest_compile": "steps_pytest:compiled",
}
# Of each kind of result, the fields that are printed at the end.
TABLE = {
    "speed": (
        *("codec", "precision", "rows", "width_s", "eager_x", "graph_x", "encoder_x", "kernels"),
        *("share", "peak_GB", "same_codes"),
    ),
    "new shapes": ("codec", "widths", "first_s", "capture_s", "x_real_time", "reserved_GB"),
    "batch size": ("codec", "rows", "padded_s", "eager_x", "graph_x", "peak_GB"),
    "long clip": ("codec", "padded_s", "graph_x", "peak_GB"),
    "mismatch": (
        "codec",
        "precision",
        "what",
        "fixed",
        "fixed_in_other_batches",
        "fixed_by_itself",
    ),
    "canary": ("codec", "precision", "equal", "least"),
    "again": ("codec", "precision", "same_codes"),
    "compile": ("codec", "what", "first_s", "other_widths_s", "graphs", "x_real_time", "graph_x"),
    "feed": (
        *("codec", "what", "precision", "batch_s", "x_real_time", "encode_s", "starved_s"),
        *("padding", "gpu_busy", "kept"),
    ),
    "pytest": ("rc", "seconds", "passed", "lines"),
}
_LEAST = 12  # seconds that a step needs to give anything


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="a dry run")
    parser.add_argument("--budget", type=float, default=560.0, help="seconds")
    parser.add_argument("--steps", default="", help="names or kinds, with commas; default: all")
    parser.add_argument("--run", default="", help="one step, in this process")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    os.environ["START"] = str(START)
    if options.run:
        run_step(options.run)
        return
    with (OUT / "measure.log").open("a") as log:
        for name in planned(options.steps):
            remaining = options.budget - (time.time() - START)
            if remaining < _LEAST:
                emit(step=name, skipped=f"{remaining:.0f} s left")
                continue
            limit = min(STEPS[name], remaining - 4)
            print(f"\n######## {name}, at most {limit:.0f} s", file=log, flush=True)
            os.environ["STEP_END"] = str(time.time() + limit)
            before = time.time()
            code = run_here(name, log) if DRY_RUN else run_in_process(name, limit, log)
            facts = {"rc": code, "seconds": round(time.time() - before, 1)}
            emit(step="ended", **facts, **{"name" if code == 0 else "ended": name})
    print(*table(), sep="\n")


def planned(wanted: str) -> list[str]:
    """Return the steps to run, given by name or by kind."""
    names = {name for name in wanted.split(",") if name}
    if unknown := names - STEPS.keys() - FUNCTIONS.keys():
        raise SystemExit(f"no step {', '.join(sorted(unknown))}; valid: {', '.join(STEPS)}")
    return [s for s in STEPS if not names or s in names or s.partition(":")[0] in names]


def run_step(name: str) -> None:
    kind, _, codec = name.partition(":")
    module, function = FUNCTIONS[kind].split(":")
    with attempt(name):
        run = getattr(import_module(f"tests.gpu.{module}"), function)
        run(*filter(None, [codec]))


def run_here(name: str, log: TextIO) -> int:
    """Run a step in this process: importing torch for each step costs more than a dry run."""
    os.environ["STEP_END"] = str(time.time() + 3600)
    # Read when torch is imported: no compiler, and one thread, as the tests share the CPUs.
    os.environ.update({"TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"})
    with redirect_stdout(log):
        run_step(name)
    return 0


def run_in_process(name: str, limit: float, log: TextIO) -> int | str:
    """Run a step in its own process, and kill it with its children at the limit."""
    command = [sys.executable, "-m", "tests.gpu.measure", "--run", name]
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # the step leads a group of its own
        return "timeout"


def table() -> Iterator[str]:
    """Yield the results that matter most, and all failures."""
    found = results()
    for kind, keys in TABLE.items():
        for line in found:
            if line.get("step") == kind:
                facts = "  ".join(f"{k} {line[k]}" for k in keys if line.get(k) is not None)
                yield f"{kind:11s} {facts}"
    for line in found:
        if "failed" in line or "ended" in line:
            keys = ("failed", "ended", "codec", "error", "message")
            yield f"FAILED { ({k: str(line[k])[:160] for k in keys if k in line}) }"


if __name__ == "__main__":
    main()
