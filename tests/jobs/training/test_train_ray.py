"""Workers of a training run on Ray.

tests/jobs/commands/test_readme_finetune.py compares such a run with one in this process, and
tests/infra/test_slurm.py stops one by SIGTERM.
"""

import json
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console

from speechmill.codecs.errors import CheckpointError
from speechmill.jobs.commands.train import train_codec
from speechmill.jobs.training.display import TrainDisplay
from speechmill.jobs.training.trainer import TrainProgress
from speechmill.pipeline.errors import InputError
from tests.jobs.training.runs import train_config
from tests.ray_processes import listening_addresses, local_processes

QUIET = TrainDisplay(Console(quiet=True))


class Watch(TrainDisplay):
    """A display that notes at which addresses the run accepts connections."""

    addresses: frozenset[str] = frozenset()

    def show(self, progress: TrainProgress) -> None:
        self.addresses |= listening_addresses(local_processes())


def test_two_workers_with_an_enhancer_keep_the_same_codebooks_and_stay_on_the_loopback(
    tmp_path: Path,
) -> None:
    """And they see every sample."""
    online = ("enhancement=online", "enhancer.name=spectral-gating")
    on_ray = ("workers={num_gpus: 0, count: 2}", "ray.num_cpus=2")  # a local cluster, as by default
    watch = Watch(Console(quiet=True))
    train_codec(train_config(tmp_path, *on_ray, *online), watch)
    assert watch.addresses == {"127.0.0.1"}
    rows = (tmp_path / "run" / "curves" / "step-00000012.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [10, 11, 12]


def test_a_checkpoint_that_cannot_be_fetched_ends_the_run_before_ray_starts(tmp_path: Path) -> None:
    config = train_config(
        tmp_path, "workers.count=1", "ray.address=nowhere:1", "codec.checkpoint=nowhere://x/y.pt"
    )
    with pytest.raises(CheckpointError, match="cannot fetch 'nowhere://"):
        train_codec(config, QUIET)


def test_the_error_of_a_worker_arrives_unchanged(tmp_path: Path, cluster: Cluster) -> None:
    workers = "workers={num_gpus: 0, count: 1, max_failures: 0}"
    config = train_config(
        tmp_path, f"ray.address={cluster.address}", workers, "enhancement=offline"
    )
    with pytest.raises(InputError, match=r"has no \.enhanced\.flac"):
        train_codec(config, QUIET)
