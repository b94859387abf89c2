"""Workers of a training run on Ray.

tests/jobs/commands/test_readme_finetune.py compares such a run with one in this process.
"""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console

from speechmill.codecs.errors import CheckpointError
from speechmill.jobs.commands.train import train_codec
from speechmill.jobs.training.checkpoints import Checkpoints
from speechmill.jobs.training.display import TrainDisplay
from speechmill.jobs.training.trainer import TrainProgress
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.storage import Storage
from tests.jobs.conftest import command
from tests.jobs.training.runs import train_config, train_yaml
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


def test_sigterm_reaches_all_workers_at_the_same_step(tmp_path: Path, cluster: Cluster) -> None:
    endless = ("phases.vae.steps=100000", "checkpoint.every=100000", "log.every=1")
    workers = ("workers={num_gpus: 0, count: 2}", f"ray.address={cluster.address}")
    process = subprocess.Popen(
        command("train", str(train_yaml(tmp_path)), *endless, *workers),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    next(line for line in process.stdout if "  step " in line)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 130
    checkpoints = Checkpoints(f"{tmp_path}/run", Storage(), keep=3)
    assert len(checkpoints.steps()) == 1
    assert len(checkpoints.latest()["positions"]) == 2
