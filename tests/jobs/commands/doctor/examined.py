"""Runs the doctor and then the command that it speaks of, as users type them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.corpus import write_corpus
from tests.jobs.conftest import invoke

HERE = ("workers.count=0", "workers.num_gpus=0")
Findings = list[dict[str, str]]


def tokenize_config(folder: Path, **more: Any) -> Path:
    """A configuration of a small corpus through the null codec, in this process."""
    if not (folder / "in").exists():
        write_corpus(folder / "in", num_shards=2, clips_per_shard=3, seconds=0.5)
    path = folder / "config.yaml"
    values = {
        "shards": [f"{folder}/in"],
        "output": f"{folder}/out",
        "codec": {"name": "null"},
        "workers": {"count": 0, "num_gpus": 0},
        "storage_patience": 0.5,
        **more,
    }
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


def on_cluster(folder: Path, address: str, **workers: Any) -> Path:
    """The same on a cluster, without GPUs."""
    return tokenize_config(folder, workers={"num_gpus": 0, **workers}, ray={"address": address})


def doctor(path: Path, *overrides: str) -> tuple[int, Findings]:
    """The exit code and the lines; a loaded machine gets more time than users have patience."""
    done = invoke("doctor", path, *overrides, "--seconds", 240, "--json")
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.exit_code
    return done.exit_code, found["checks"]


def lines(found: Findings, result: str, check: str = "") -> list[str]:
    """Those with one result, of one check or of all."""
    return [
        f"{each['check']}: {each['message']}"
        for each in found
        if each["result"] == result and check in ("", each["check"])
    ]


def assert_both_succeed(path: Path, command: str = "tokenize", *overrides: str) -> Findings:
    code, found = doctor(path, *overrides)
    assert (code, lines(found, "fault"), lines(found, "skipped")) == (0, [], [])
    done = invoke(command, path, *overrides)
    assert done.exit_code == 0, done.output
    return found


def assert_both_fail(
    path: Path, check: str, said: str | Sequence[str], command: str = "tokenize", *overrides: str
) -> Findings:
    """The doctor names one check with these words, and the run fails too."""
    code, found = doctor(path, *overrides)
    faults = lines(found, "fault")
    assert code == 1, found
    assert {each.partition(":")[0] for each in faults} == {check}, faults
    for words in [said] if isinstance(said, str) else said:
        assert words in faults[0]
    assert invoke(command, path, *overrides).exit_code in (1, 2)
    return found
