"""`speechmill doctor` on one machine: what it calls a fault ends the run, and nothing else does."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from speechmill.jobs.commands.doctor import machine
from speechmill.jobs.commands.doctor.checks import Check, Examination, Result, fault, ok, warning
from tests.conftest import REPOSITORY
from tests.corpus import clip, tar_bytes
from tests.jobs.commands.doctor.examined import (
    assert_both_fail,
    assert_both_succeed,
    doctor,
    lines,
    tokenize_config,
)
from tests.jobs.conftest import invoke
from tests.test_architecture import modules_loaded_by

PACKAGED = REPOSITORY / "codecs/speechmill/codecs/pure/pure-16k-small.safetensors"
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tokenize_config(tmp_path)


def test_a_healthy_run_has_no_fault_and_the_doctor_leaves_nothing(tmp_path, config):
    before = sorted(tmp_path.rglob("*"))
    code, found = doctor(config)
    assert sorted(tmp_path.rglob("*")) == before
    assert (code, lines(found, "fault"), lines(found, "skipped")) == (0, [], [])
    assert {"python", "torch", "gpu", "decoders", "codec", "speed"} <= {f["check"] for f in found}
    assert invoke("tokenize", config).exit_code == 0
    code, found = doctor(config)
    assert (code, [f["message"] for f in found if f["check"] == "speed"]) == (
        0,
        ["nothing is left to do"],
    )


def test_the_machine_alone_is_checked_without_a_configuration():
    done = invoke("doctor")
    assert done.exit_code == 0, done.stdout
    assert "a run can start" in done.stdout.splitlines()[-1]
    for check in ("python", "libraries", "torch", "gpu", "memory", "disk", "decoders", "ray"):
        assert f"  {check:<9}  " in done.stdout


def pickled(_: Path) -> bytes:
    class Hostile:
        def __reduce__(self):
            return os.system, ("touch /tmp/speechmill-was-here",)

    return pickle.dumps(Hostile(), protocol=2)


BROKEN_WEIGHTS = {
    "x.safetensors": ("cannot read", lambda path: b"no weights at all"),
    "y.safetensors": ("cannot read", lambda path: path.read_bytes()[:-1000]),
    "z.pt": ("cannot read", pickled),
}


@pytest.mark.parametrize("name", BROKEN_WEIGHTS)
def test_weights_that_are_broken_or_hostile_are_a_fault(tmp_path, config, name):
    said, damage = BROKEN_WEIGHTS[name]
    (tmp_path / name).write_bytes(damage(PACKAGED))
    overrides = ("codec.name=pure-16k-small", f"codec.checkpoint={tmp_path / name}")
    assert_both_fail(config, "codec", said, "tokenize", *overrides)
    assert not Path("/tmp/speechmill-was-here").exists()


FAULTS = {
    "another digest": (
        "codec",
        "expected aaaa",
        ("codec.name=pure-16k-small", f"codec.checkpoint={PACKAGED}", f"codec.sha256={'a' * 64}"),
    ),
    "weights of another network": (
        "codec",
        "does not fit the network",
        ("codec.name=pure-4k", f"codec.checkpoint={PACKAGED}"),
    ),
    "a precision that CPUs lack": (
        "codec",
        "use fp32",
        ("codec.name=pure-16k-small", "codec.precision=fp16"),
    ),
    "no such input": ("shards", "do not exist", ("shards=[/nowhere/x.tar]",)),
    "an output below a file": ("output", "Not a directory", ("output=/dev/null/tokens",)),
    "a missing function": ("settings", "filters.quality", ("filters.quality=nowhere:score",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_doctor_ends_the_run(config, name):
    check, said, overrides = FAULTS[name]
    assert_both_fail(config, check, said, "tokenize", *overrides)


@no_gpu
def test_a_run_for_gpus_is_a_fault_on_a_machine_without_one(config):
    said = ("none; set workers.num_gpus=0", "run on a GPU node")
    assert_both_fail(config, "gpu", said, "tokenize", "workers.num_gpus=1")


@no_gpu
def test_gpus_that_torch_cannot_use_are_named_with_their_driver(tmp_path, config, monkeypatch):
    row = "0, NVIDIA H200, 143771, 90000, 9.0, 535.10"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{row}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    warned = next(line for line in invoke("doctor").stdout.splitlines() if "1 NVIDIA H200" in line)
    assert warned.startswith("warning  gpu ")
    assert "built for CPUs" in warned or "with driver 535.10" in warned
    assert_both_fail(config, "gpu", "1 NVIDIA H200", "tokenize", "workers.num_gpus=1")


def test_a_missing_package_is_named_with_its_extra(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    overrides = ("codec.name=encodec-24khz", "codec.checkpoint=untrained")
    assert_both_fail(config, "codec", "pip install", "tokenize", *overrides)


def test_tars_that_are_all_damaged_are_a_fault(tmp_path, config):
    for path in (tmp_path / "in").iterdir():
        path.write_bytes(path.read_bytes()[:2000])
    assert_both_fail(config, "speed", "none of 2 probed shards can be read")


def test_one_damaged_tar_is_a_fault_since_the_run_ends_with_exit_code_1(tmp_path, config):
    (tmp_path / "in" / "cut.tar").write_bytes(tar_bytes([("z.flac", clip(2.0))])[:3000])
    assert_both_fail(config, "speed", ("1 of 3 probed shards", "cut.tar"))


def test_input_without_audio_is_a_warning_since_the_run_ends_well(tmp_path, config):
    shutil.rmtree(tmp_path / "in")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes(tar_bytes([("a.flac", b"junk")]))
    found = assert_both_succeed(config)
    assert any("1 UndecodableAudio" in each for each in lines(found, "warning"))


def test_an_output_of_other_settings_is_a_fault(config):
    assert invoke("tokenize", config).exit_code == 0
    found = assert_both_fail(config, "dataset", "'null'", "tokenize", "codec.name=pure-16k-small")
    assert "speed: needs dataset" in lines(found, "skipped")


def test_random_weights_are_a_warning(tmp_path, config):
    overrides = ("codec.name=pure-16k-small", "codec.checkpoint=untrained")
    found = assert_both_succeed(config, "tokenize", *overrides)
    assert any("random weights" in line for line in lines(found, "warning"))
    assert "weights  random" in invoke("tokenize", config, *overrides).stdout
    assert "weights  random" not in invoke("tokenize", config, f"output={tmp_path}/trained").stdout


def test_a_configuration_that_is_not_there_is_a_fault_with_its_cure(tmp_path):
    code, found = doctor(tmp_path / "no.yaml")
    assert "decoders" in {each["check"] for each in found}  # the machine is examined nevertheless
    [said] = lines(found, "fault")
    assert (code, invoke("tokenize", tmp_path / "no.yaml").exit_code) == (2, 2)
    assert "cannot read" in said
    assert "; name a file" in said


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_a_fault(config, mounted):
    with pytest.raises(OSError, match="space"), (mounted / "filler").open("wb") as file:
        file.write(b"0" * 2**17)
    override = f"output={mounted}/out"
    assert doctor(config, override)[0] == 1
    assert [path.name for path in mounted.iterdir()] == ["filler"]
    assert_both_fail(config, "output", "free space", "tokenize", override)


def test_an_output_that_cannot_be_written_is_a_fault(config, mounted):
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    said = "Read-only file system"
    assert_both_fail(config, "output", said, "tokenize", f"output={mounted}/out")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("storage.s3.secret='${oc.env:S3_SECRET}'", "variable S3_SECRET is not set; export it"),
        ("codec.nome=null", "did you mean codec.name"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_line_beside_those_of_the_machine(
    config, override, said
):
    code, found = doctor(config, override)
    [line] = lines(found, "fault")
    assert (code, line.startswith("config: "), said in line) == (2, True, True)
    assert found[0]["check"] == "python"
    assert invoke("tokenize", config, override).exit_code == 2


def test_help_needs_neither_torch_nor_ray():
    code = (
        "from typer.testing import CliRunner; from speechmill.jobs.cli import app;"
        "assert CliRunner().invoke(app, ['doctor', '--help']).exit_code == 0"
    )
    assert not {"torch", "ray"} & modules_loaded_by(code)


def hanging():
    time.sleep(60)
    yield ok("late")


def test_files_that_a_container_keeps_in_memory_count_as_free(tmp_path, monkeypatch):
    """They go when a process needs the room."""
    stat = "anon 400000000\ninactive_file 2000000000\n"
    for name, text in (("max", "2500000000\n"), ("current", "2400000000\n"), ("stat", stat)):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert list(machine.memory(on_ray=False)) == [ok("2.1 of 2.5 GB free")]


def test_a_check_that_hangs_costs_its_time_and_no_other_check():
    checks = [
        Check("hangs", hanging, seconds=0.2, late=fault("no answer")),
        Check("fine", lambda: [ok("well")]),
        Check("after", lambda: [ok("well")], needs=("hangs",)),
        Check("raises", lambda: 1 / 0),  # type: ignore[arg-type,return-value]
    ]
    began = time.monotonic()
    found = list(Examination(5.0).at_once(checks))
    assert time.monotonic() - began < 30
    results = [Result.FAULT, Result.OK, Result.SKIPPED, Result.FAULT]
    assert [finding.result for finding in found] == results
    assert found[3].message == "ZeroDivisionError: division by zero"


def test_a_check_in_the_main_thread_is_broken_off_and_unwinds():
    unwound = []

    def waits():
        try:
            yield from hanging()
        finally:
            unwound.append(True)

    checks = [Check("waits", waits, seconds=0.2, late=warning("later"))]
    [found] = Examination(5.0).one_by_one(checks)
    assert (found.result, unwound) == (Result.WARNING, [True])


def test_the_json_holds_every_line_that_is_printed():
    printed = invoke("doctor").stdout.splitlines()
    found = json.loads(invoke("doctor", "--json").stdout)["checks"]
    assert [line.split()[1] for line in printed[:-1]] == [each["check"] for each in found]
