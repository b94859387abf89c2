"""The README's way from speech of one's own to a fine-tuned codec and its tokens."""

import json
import re
import shlex
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from speechmill.codecs import codec_info
from tests.conftest import REPOSITORY
from tests.jobs.conftest import Command

SMALLER = {
    "pack": [],
    "train": ["phases.quantize={steps: 2}", "data.batch_size=2", "workers.count=0"],
    "tokenize": [],
    "evaluate": ["max_clips=1", "metrics.signal=[si_sdr]", "metrics.processes=1"],
}


def commands() -> list[list[str]]:
    section = (REPOSITORY / "README.md").read_text().split("## Fine-tune a codec")[1]
    block = section.split("```")[1]
    return [shlex.split(line, comments=True)[1:] for line in block.strip().splitlines()]


def test_the_commands_of_the_readme_tokenize_with_a_fine_tuned_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, speechmill: Command
) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "speech").symlink_to(REPOSITORY / "samples" / "fr")
    monkeypatch.chdir(tmp_path)
    smaller = SMALLER | {"tokenize": [f"ray.address={cluster.address}"]}
    for command in commands():
        done = speechmill(*command, *smaller.pop(command[0]))
        assert done.returncode == 0, done.stderr
    assert not smaller
    tuned = codec_info("pure-16k-small", checkpoint="runs/finetuned/last.safetensors")
    dataset = json.loads(Path("tokens/finetuned/dataset.json").read_text())
    assert dataset["revision"] == tuned.revision != codec_info("pure-16k-small").revision
    rows = re.findall(r"^ *(before|after) +(\d)", done.stdout, re.MULTILINE)
    assert rows == [(label, count) for label in ("before", "after") for count in "1248"]
