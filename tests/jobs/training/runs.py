"""Small training runs: a tiny PURE on tones, in this process."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from speechmill.jobs.commands.train import make_job, train_codec
from speechmill.jobs.config import load_config
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.context import WorkerContext
from speechmill.jobs.training.display import TrainDisplay
from speechmill.jobs.training.progress import ProgressKind, TrainProgress
from speechmill.jobs.training.worker import train_worker
from speechmill.pipeline.storage import Storage
from tests.corpus import write_corpus

TINY = {"channels": [4, 8, 8, 8, 16], "dim": 8, "codebook_size": 16, "num_stages": 3}
TINY |= {"num_codebooks": 3, "lstm_layers": 1}

_YAML = """
shards: [{shards}/]
output: {output}
codec: {{name: pure, config: {codec}}}
phases:
  vae: {{steps: 6, lr: 1.0e-3}}
  quantize: {{steps: 6, lr: 1.0e-3}}
recipe:
  {{p_enh: 0.5, mel_ffts: [128], mel_bands: [10], kmeans_frames: 50, revive_below: 0.1}}
enhancement: clean
data: {{crop_seconds: 0.2, batch_size: 2, shuffle_buffer: 5, threads: 1}}
validation: {{shards: [{shards}/], clips: 2, seconds: 0.3, every: 4, listen: 1}}
checkpoint: {{every: 3}}
workers: {{count: 0, num_gpus: 0}}
"""


def train_yaml(folder: Path, output: str = "run") -> Path:
    """Write a corpus and a configuration that trains on it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "shards").exists():
        write_corpus(folder / "shards", num_shards=3, clips_per_shard=4, seconds=0.5)
    (folder / "tiny.json").write_text(json.dumps(TINY))
    path = folder / "train.yaml"
    path.write_text(
        _YAML.format(shards=folder / "shards", output=folder / output, codec=folder / "tiny.json")
    )
    return path


def train_config(folder: Path, *overrides: str, output: str = "run") -> TrainConfig:
    return load_config(TrainConfig, train_yaml(folder, output), list(overrides))


def tree(root: Any, *names: str) -> dict[str, bytes]:
    """The content of the files below some folders of a run directory."""
    files = [path for name in names for path in sorted((Path(root) / name).rglob("*"))]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


QUIET = TrainDisplay(Console(quiet=True))
KEPT = ("curves", "validation", "samples")


def run(config: TrainConfig) -> Path:
    train_codec(config, QUIET)
    return Path(config.output)


def weights(root: Path) -> bytes:
    return (root / "last.safetensors").read_bytes()


class Stopped(Exception):
    """A crash."""


def run_until(config: TrainConfig, step: int) -> None:
    """Train, and crash when this step is reported."""

    def crash(progress: TrainProgress) -> None:
        if progress.step == step and progress.kind is ProgressKind.STEP:
            raise Stopped

    with pytest.raises(Stopped):
        train_worker(make_job(config, Storage()), WorkerContext(), crash)


def run_and_stop(config: TrainConfig, step: int) -> None:
    """Train, and ask the run to stop while this step is computed."""
    reached = 0

    def note(progress: TrainProgress) -> None:
        nonlocal reached
        reached = progress.step

    context = WorkerContext(should_stop=lambda: reached >= step - 1)
    train_worker(make_job(config, Storage()), context, note)
