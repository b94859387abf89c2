"""A dry run of the measuring kit on a CPU, so that it follows the code that it measures."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.gpu import steps_pytest
from tests.gpu.measure import FUNCTIONS, STEPS, planned

# The tests that these steps run are collected by the suite itself.
ON_GPU_ALONE = {"pytest", "pytest_ray", "pytest_compile"}
ON_RAY = {"feed"}


def dry_run(out: Path, steps: set[str]) -> list[dict[str, Any]]:
    """Results of the steps, run by the script from another folder."""
    of_the_kit = ("BUDGET", "START", "STEP_END", "RAY_ADDRESS")
    without = {k: v for k, v in os.environ.items() if k not in of_the_kit}
    kit = {"CPU": "1", "PYTHON": sys.executable, "OUT": str(out), "KIT": str(out / "none")}
    command = ["bash", str(REPOSITORY / "tests/gpu/measure.sh")]
    done = subprocess.run(
        command,
        env={**without, **kit, "STEPS": ",".join(sorted(steps))},
        cwd=out,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def check(results: list[dict[str, Any]], steps: set[str]) -> None:
    """Every step ended, no measurement failed, and only what needs other hardware was skipped."""
    assert [r for r in results if "failed" in r or r.get("rc")] == []
    skipped = [r["skipped"] for r in results if "skipped" in r]
    assert [why for why in skipped if why != "cpu" and "this CPU has no kernel" not in why] == []
    assert {r["name"] for r in results if r["step"] == "ended"} == steps


def test_every_step_runs_without_a_gpu(tmp_path: Path) -> None:
    steps = set(STEPS) - ON_GPU_ALONE - ON_RAY
    results = dry_run(tmp_path, steps)
    check(results, steps)
    assert {r["same_codes"] for r in results if "same_codes" in r} == {True}
    shares = [r[key] for r in results for key in r if key.startswith(("fixed", "batch_against"))]
    assert len(shares) > 20
    assert not any(map(sum, shares))  # of codes that a batch changes
    assert {r["equal"] for r in results if r["step"] == "canary"} == {1.0}


def test_the_feed_is_measured_with_workers_of_a_local_cluster(tmp_path: Path) -> None:
    results = dry_run(tmp_path, ON_RAY)
    check(results, ON_RAY)
    [fed] = [r for r in results if "padding" in r]
    assert fed["rows"] > 0
    assert 0 < fed["padding"] < 0.9


def test_a_failed_measurement_is_a_result_of_its_own(tmp_path: Path) -> None:
    code = (
        "from tests.gpu.kit import attempt, emit\n"
        "with attempt('first', codec='x'): 1 / 0\n"
        "with attempt('second'): emit(step='second')\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, "--cpu"],
        env=os.environ | {"OUT": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        check=True,
    )
    failed, second = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert failed["failed"] == "first"
    assert failed["codec"] == "x"
    assert failed["error"] == "ZeroDivisionError"
    assert second["step"] == "second"


def test_steps_are_chosen_by_name_or_by_kind() -> None:
    assert planned("") == list(STEPS)
    assert planned("codec:pure-4k,env") == ["env", "codec:pure-4k"]
    assert planned("compile") == ["compile:focalcodec-50hz", "compile:simwhisper-16k"]
    assert {step.partition(":")[0] for step in STEPS} == set(FUNCTIONS)
    with pytest.raises(SystemExit, match="no step codecs; valid: env, codec:focalcodec-50hz"):
        planned("codecs")


def test_the_kit_runs_every_test_file_but_this_one() -> None:
    folder = REPOSITORY / steps_pytest.FOLDER
    known = {*steps_pytest.FILES, steps_pytest.ON_RAY, Path(__file__).name}
    assert known == {path.name for path in folder.glob("test_*.py")}
