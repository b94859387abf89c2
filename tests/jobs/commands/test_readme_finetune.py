"""The README's commands to fine-tune a codec and tokenize with it, run as they are typed."""

import json
import os
import re
import shlex
import signal
import subprocess
from contextlib import chdir
from pathlib import Path

import psutil
import pytest

from speechmill.codecs import codec_info
from tests.conftest import REPOSITORY
from tests.jobs.conftest import command, invoke, wait_until
from tests.jobs.training.runs import tree
from tests.ray_processes import is_raylet, kill

SMALLER = {
    "pack": [],
    "train": ["phases.quantize={steps: 8}", "data.batch_size=2", "checkpoint.every=2"],
    "tokenize": [],
    "evaluate": ["max_clips=1", "metrics.signal=[si_sdr]", "metrics.processes=1"],
}
HELD_OUT = ["validation.shards=[shards/]", "validation.clips=1", "validation.seconds=1"]


def documented(page: str, section: str) -> dict[str, list[str]]:
    """The commands of a section's first block by their verb, with small sizes."""
    block = (REPOSITORY / page).read_text().split(section)[1].split("```bash\n")[1].split("```")[0]
    lines = [shlex.split(line, comments=True)[1:] for line in block.strip().splitlines()]
    return {verb: changed([verb, *arguments], *SMALLER[verb]) for verb, *arguments in lines}


def changed(arguments: list[str], *settings: str) -> list[str]:
    """Arguments with these settings, in place of those with the same keys."""
    keys = tuple(setting.partition("=")[0] + "=" for setting in settings)
    return [*(one for one in arguments if not one.startswith(keys)), *settings]


COMMANDS = documented("README.md", "## Fine-tune a codec")
TRAIN = changed(COMMANDS["train"], *HELD_OUT)


def run(folder: Path, *arguments: str) -> str:
    with chdir(folder):
        done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user, with the examples and packed recordings."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    (folder / "speech").symlink_to(REPOSITORY / "samples" / "fr")
    run(folder, *COMMANDS["pack"])
    return folder


@pytest.fixture(scope="module")
def finetuned(folder: Path) -> Path:
    """The run of the README, killed after its first checkpoint and started again."""
    root = folder / "runs" / "finetuned"
    process = subprocess.Popen(
        command(*TRAIN), cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL
    )
    wait_until((root / "checkpoints" / "step-00000002.pt").exists, process)
    kill_all(process)
    assert not (root / "best.safetensors").exists()
    curves = root / "curves" / "step-00000002.jsonl"
    written = curves.stat().st_mtime_ns
    best, last = root / "best.safetensors", root / "last.safetensors"
    assert f"weights are {best} (by validation), {last}" in run(folder, *TRAIN)
    assert curves.stat().st_mtime_ns == written
    return root


def kill_all(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL for a command and for every process of its Ray cluster."""
    children = psutil.Process(process.pid).children(recursive=True)
    assert any(map(is_raylet, children))
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        kill(child)
    process.wait()


def test_the_commands_are_those_of_the_training_page_too() -> None:
    assert documented("docs/guide/fine-tune.md", "## Fine-tune the codec that ships") == COMMANDS


def test_training_that_was_killed_with_its_cluster_ends_like_an_uninterrupted_run(
    folder: Path, finetuned: Path
) -> None:
    run(folder, *changed(TRAIN, "output=runs/whole", "workers.count=0"))
    whole = folder / "runs" / "whole"
    for name in ("last.safetensors", "best.safetensors"):
        assert (finetuned / name).read_bytes() == (whole / name).read_bytes()
    assert tree(finetuned, "curves", "validation") == tree(whole, "curves", "validation") != {}
    for name in ("checkpoints", "samples", "tensorboard"):
        assert (finetuned / name).is_dir()


def test_the_commands_of_the_readme_tokenize_with_a_fine_tuned_codec(
    folder: Path, finetuned: Path
) -> None:
    run(folder, *COMMANDS["tokenize"])
    tuned = codec_info("pure-16k-small", checkpoint=finetuned / "last.safetensors")
    dataset = json.loads((folder / "tokens" / "finetuned" / "dataset.json").read_text())
    assert dataset["revision"] == tuned.revision != codec_info("pure-16k-small").revision
    table = run(folder, *COMMANDS["evaluate"])
    rows = re.findall(r"^ *(before|after) +(\d)", table, re.MULTILINE)
    assert rows == [(label, count) for label in ("before", "after") for count in "1248"]
