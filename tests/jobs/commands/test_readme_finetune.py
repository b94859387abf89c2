"""The README's commands to fine-tune a codec and tokenize with it, run as they are typed."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from speechmill.codecs import codec_info
from tests.conftest import REPOSITORY
from tests.jobs.conftest import Command, command

SMALLER = {
    "pack": [],
    "train": ["phases.quantize={steps: 8}", "data.batch_size=2", "checkpoint.every=2"],
    "tokenize": [],
    "evaluate": ["max_clips=1", "metrics.signal=[si_sdr]", "metrics.processes=1"],
}


def documented(page: str, section: str) -> dict[str, list[str]]:
    """The commands of a section's first block by their verb, with small sizes."""
    block = (REPOSITORY / page).read_text().split(section)[1].split("```bash\n")[1].split("```")[0]
    lines = [shlex.split(line, comments=True)[1:] for line in block.strip().splitlines()]
    return {verb: [verb, *arguments, *SMALLER[verb]] for verb, *arguments in lines}


COMMANDS = documented("README.md", "## Fine-tune a codec")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user, with the examples and recordings."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    (folder / "speech").symlink_to(REPOSITORY / "samples" / "fr")
    return folder


@pytest.fixture(scope="module")
def finetuned(folder: Path) -> Path:
    """The run of the first two commands."""
    for verb in ("pack", "train"):
        done = subprocess.run(
            command(*COMMANDS[verb]), cwd=folder, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stderr
    assert f"weights are {folder}/runs/finetuned/last.safetensors" in done.stdout
    return folder / "runs" / "finetuned"


def test_the_commands_are_those_of_the_training_page_too() -> None:
    assert documented("docs/guide/fine-tune.md", "## Fine-tune the codec that ships") == COMMANDS


def test_the_commands_of_the_readme_tokenize_with_a_fine_tuned_codec(
    folder: Path, finetuned: Path, monkeypatch: pytest.MonkeyPatch, speechmill: Command
) -> None:
    monkeypatch.chdir(folder)
    for verb in ("tokenize", "evaluate"):
        done = speechmill(*COMMANDS[verb])
        assert done.returncode == 0, done.stderr
    assert {path.name for path in finetuned.iterdir()} >= {"checkpoints", "curves", "tensorboard"}
    tuned = codec_info("pure-16k-small", checkpoint="runs/finetuned/last.safetensors")
    dataset = json.loads(Path("tokens/finetuned/dataset.json").read_text())
    assert dataset["revision"] == tuned.revision != codec_info("pure-16k-small").revision
    rows = re.findall(r"^ *(before|after) +(\d)", done.stdout, re.MULTILINE)
    assert rows == [(label, count) for label in ("before", "after") for count in "1248"]


def test_the_readme_s_training_resumes_after_all_its_processes_were_killed(
    folder: Path, finetuned: Path, monkeypatch: pytest.MonkeyPatch, speechmill: Command
) -> None:
    monkeypatch.chdir(folder)
    arguments = [*COMMANDS["train"], "output=runs/killed", "validation.shards=[shards/]"]
    arguments += ["validation.clips=1", "validation.seconds=1"]
    process = subprocess.Popen(
        command(*arguments), start_new_session=True, stdout=subprocess.DEVNULL
    )
    while not Path("runs/killed/checkpoints/step-00000002.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    kill_all(process)
    curves = Path("runs/killed/curves/step-00000002.jsonl")
    written = curves.stat().st_mtime_ns
    assert not Path("runs/killed/best.safetensors").exists()
    done = speechmill(*arguments, timeout=250)
    assert done.returncode == 0, done.stderr
    assert curves.stat().st_mtime_ns == written
    assert Path("runs/killed/best.safetensors").exists()
    whole, resumed = (run / "last.safetensors" for run in (finetuned, Path("runs/killed")))
    assert whole.read_bytes() == resumed.read_bytes()


def kill_all(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL for a command and for every process of its Ray cluster."""
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in children)
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        if child.is_running():
            child.kill()
    process.wait()
