"""Training on Ray: the same as in this process, and begun again when a worker is lost."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from jobs.train import train
from jobs.train_display import TrainDisplay
from pipeline.errors import InputError
from tests.jobs.training import train_config, tree

QUIET = TrainDisplay(Console(quiet=True))
ON_RAY = ("workers.count=1", "workers.num_gpus=0", "ray.num_cpus=2")


def test_one_worker_on_ray_computes_what_this_process_does(tmp_path: Path) -> None:
    train(train_config(tmp_path, output="here"), QUIET)
    train(train_config(tmp_path, *ON_RAY, output="on-ray"), QUIET)
    assert tree(tmp_path / "on-ray", "curves") == tree(tmp_path / "here", "curves")


def test_two_workers_keep_the_same_codebooks_and_see_every_sample(tmp_path: Path) -> None:
    two = ("workers.count=2", "workers.num_gpus=0", "ray.num_cpus=2")
    train(train_config(tmp_path, *two), QUIET)
    rows = (tmp_path / "run" / "curves" / "step-00000012.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [10, 11, 12]


def test_what_a_worker_raises_arrives_as_it_is(tmp_path: Path) -> None:
    config = train_config(tmp_path, *ON_RAY, "enhancement=offline", "workers.max_failures=0")
    with pytest.raises(InputError, match=r"has no \.enhanced\.flac"):
        train(config, QUIET)
