"""Training on Ray gives the same result as training in this process."""

import json
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console

from speechmill.jobs.commands.train import train_codec
from speechmill.jobs.training.display import TrainDisplay
from speechmill.jobs.training.trainer import TrainProgress
from speechmill.pipeline.errors import InputError
from tests.jobs.training.runs import train_config, tree
from tests.ray_processes import listening_addresses, local_processes

QUIET = TrainDisplay(Console(quiet=True))
ON_RAY = ("workers.num_gpus=0", "ray.num_cpus=2")  # a local cluster, as by default


def test_one_worker_on_ray_computes_what_this_process_does_also_with_an_enhancer(
    tmp_path: Path,
) -> None:
    online = ("enhancement=online", "enhancer.name=spectral-gating")
    train_codec(train_config(tmp_path, *online, output="here"), QUIET)
    train_codec(train_config(tmp_path, *ON_RAY, *online, "workers.count=1", output="on-ray"), QUIET)
    assert tree(tmp_path / "on-ray", "curves") == tree(tmp_path / "here", "curves")


class Watch(TrainDisplay):
    """A display that notes at which addresses the run accepts connections."""

    addresses: frozenset[str] = frozenset()

    def show(self, progress: TrainProgress) -> None:
        self.addresses |= listening_addresses(local_processes())


def test_two_workers_keep_the_same_codebooks_see_every_sample_and_stay_on_the_loopback(
    tmp_path: Path,
) -> None:
    watch = Watch(Console(quiet=True))
    train_codec(train_config(tmp_path, *ON_RAY, "workers.count=2"), watch)
    assert watch.addresses == {"127.0.0.1"}
    rows = (tmp_path / "run" / "curves" / "step-00000012.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [10, 11, 12]


def test_the_error_of_a_worker_arrives_unchanged(tmp_path: Path, cluster: Cluster) -> None:
    workers = "workers={num_gpus: 0, count: 1, max_failures: 0}"
    config = train_config(
        tmp_path, f"ray.address={cluster.address}", workers, "enhancement=offline"
    )
    with pytest.raises(InputError, match=r"has no \.enhanced\.flac"):
        train_codec(config, QUIET)
