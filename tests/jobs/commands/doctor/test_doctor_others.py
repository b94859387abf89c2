"""`speechmill doctor` with configurations of `train`, `enhance` and `evaluate`."""

import json
import sys
from pathlib import Path

import pytest

from speechmill.jobs.commands.doctor.doctor import read_run
from tests.conftest import REPOSITORY
from tests.corpus import write_corpus
from tests.jobs.commands.doctor.examined import assert_both_fail, assert_both_succeed, doctor, lines

TRAIN = REPOSITORY / "configs/train/pure-16k-small.yaml"
CONFIGS = sorted(
    path
    for command in ("tokenize", "train", "enhance", "evaluate")
    for path in (REPOSITORY / "configs" / command).glob("*.yaml")
)


def written(folder: Path, **values: object) -> Path:
    write_corpus(folder / "in", num_shards=1, clips_per_shard=2, seconds=1.0)
    path = folder / "config.yaml"
    path.write_text(json.dumps({"output": f"{folder}/out", **values}))
    return path


def enhance_config(folder: Path) -> Path:
    return written(
        folder,
        shards=[f"{folder}/in"],
        enhancer={"name": "spectral-gating"},
        workers={"count": 0, "num_gpus": 0},
    )


def evaluate_config(folder: Path, **metrics: object) -> Path:
    return written(
        folder,
        clips=[f"{folder}/in"],
        codecs={"pure": {"name": "pure-16k-small"}},
        device="cpu",
        metrics={"signal": ["si_sdr"], "processes": 1, **metrics},
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_keys_of_a_configuration_tell_its_command(path):
    assert read_run(path, []).command == path.parent.name


def test_a_healthy_evaluation_has_no_fault(tmp_path):
    assert_both_succeed(evaluate_config(tmp_path), "evaluate")


def test_a_metric_without_its_package_is_a_fault_of_an_evaluation(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pystoi", None)
    path = evaluate_config(tmp_path, signal=["stoi"])
    assert_both_fail(path, "metrics", "pip install 'speechmill[evaluate]'", "evaluate")


def test_a_healthy_enhancement_has_no_fault(tmp_path):
    assert_both_succeed(enhance_config(tmp_path), "enhance")


def test_an_enhancer_without_its_package_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "noisereduce", None)
    assert_both_fail(enhance_config(tmp_path), "enhancer", "noisereduce", "enhance")


def test_training_is_checked_up_to_its_recipe_and_its_output(tmp_path):
    write_corpus(tmp_path / "in", num_shards=1, clips_per_shard=2)
    here = (f"shards=[{tmp_path}/in]", f"output={tmp_path}/out", "workers.count=0")
    here = (*here, "workers.num_gpus=0", "validation.shards=[]")
    code, found = doctor(TRAIN, *here)
    assert (code, lines(found, "fault")) == (0, [])
    assert not (tmp_path / "out").exists()
    missing = (*here, "codec.checkpoint=/nowhere/x.safetensors")
    assert_both_fail(TRAIN, "codec", "/nowhere/x.safetensors", "train", *missing)
