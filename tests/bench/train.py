"""How much the loader slows a training step: steps on real batches beside steps on cached ones.

    python -m tests.bench.train [--rounds 8] [--steps 10] [--hours 0.3] [--threads 1]

Blocks of steps alternate in one process: one takes its batches from the shards, which the loader's
threads read, decode, crop and augment while the step computes; the next repeats a batch from
memory. Both use the trainer's own step. The ratio of a round is that of the median steps of both
blocks. If the loader has no core of its own, it slows the step without making it wait. So the time
that a step waits for its batch is printed too, and the CPU seconds of loader and step: on a single
core the ratio would be 1 + loader / step. CPU seconds do not depend on other processes.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from speechmill.jobs.config import load_config
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.context import WorkerContext
from speechmill.jobs.training.data import BatchPrefetcher, CropBatch, batches
from speechmill.jobs.training.optim import Phase
from speechmill.jobs.training.stream import SampleStream, StreamState
from speechmill.jobs.training.trainer import Trainer
from speechmill.jobs.training.worker import build_cropper, build_recipe
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from tests.bench.feed import make_corpus
from tests.codecs.focalcodec.small import tiny

CONFIGS = Path(__file__).parents[2] / "configs" / "train"


def cases(folder: Path, device: str) -> dict[str, TrainConfig]:
    """The codec that ships, with its training configuration, and a small FocalCodec."""
    common = [f"shards=[{folder}/corpus/]", f"output={folder}/run", "validation.shards=[]"]
    common.append(f"workers.num_gpus={int(device != 'cpu')}")  # which decides the precision
    noise = f"augment.noise={{shards: [{folder}/corpus/], probability: 0.3, pool_mb: 16}}"
    (folder / "small.json").write_text(json.dumps(tiny()))
    small = [
        "codec.name=focalcodec",
        f"codec.config={folder}/small.json",
        "codec.checkpoint=untrained",
        "phases.vocoder.adversarial_from=null",
        "data={crop_seconds: 1.0, batch_size: 8, shuffle_buffer: 200, threads: 1}",
    ]
    return {
        "pure-16k-small, vae": load_config(
            TrainConfig, CONFIGS / "pure-16k-small.yaml", [*common, noise]
        ),
        "focalcodec small, vocoder": load_config(
            TrainConfig, CONFIGS / "focalcodec.yaml", [*common, *small, noise]
        ),
    }


def prepared(config: TrainConfig, device: torch.device) -> tuple[Trainer, Phase]:
    """Return a trainer at the start of its first phase."""
    storage, context = Storage(), WorkerContext(device=device)
    torch.manual_seed(config.seed)
    recipe = build_recipe(config)
    stream = SampleStream(
        list_shards(config.shards, storage),
        storage,
        config.seed,
        config.data.shuffle_buffer,
        limits=config.limits,
    )
    cropper = build_cropper(config, recipe, storage)
    trainer = Trainer(config, recipe, stream, cropper, context, {}, lambda progress: None)
    trainer.log = None
    trainer._begin(trainer.phases[0], None)
    return trainer, trainer.phases[0]


def loader_alone(trainer: Trainer, count: int) -> float:
    """CPU seconds that all threads spend on a batch."""
    made = batches(trainer.stream, trainer.cropper, trainer.config.data, StreamState())
    next(made)
    started = time.process_time()
    for _ in range(count):
        next(made)
    return (time.process_time() - started) / count


def cpu_of_a_step(trainer: Trainer, phase: Phase, cached: CropBatch, count: int) -> float:
    """CPU seconds of a step while the loader waits, because its queue is full."""
    trainer._next_batch = lambda: cached
    block(trainer, phase, 2)
    started = time.process_time()
    block(trainer, phase, count)
    return (time.process_time() - started) / count


class Waits:
    """The trainer's next batch, and the seconds until it came."""

    def __init__(self, trainer: Trainer) -> None:
        self._next = trainer._next_batch
        self.seconds: list[float] = []

    def __call__(self) -> CropBatch:
        started = time.perf_counter()
        batch = self._next()
        self.seconds.append(time.perf_counter() - started)
        return batch


def block(trainer: Trainer, phase: Phase, steps: int) -> list[float]:
    """Seconds of each step."""
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        trainer._step(phase)
        if trainer.context.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds


def compare(name: str, config: TrainConfig, arguments: argparse.Namespace) -> dict[str, Any]:
    trainer, phase = prepared(config, torch.device(arguments.device))
    alone = loader_alone(trainer, 2 * arguments.steps)
    make = partial(batches, trainer.stream, trainer.cropper, config.data, StreamState())
    real_batch = Waits(trainer)
    ratios, loaded, repeated = [], [], []
    stepped: list[float] = []
    with BatchPrefetcher(make, config.data.prefetch) as trainer.data:
        cached = real_batch()
        block(trainer, phase, 3)
        step_cpu = cpu_of_a_step(trainer, phase, cached, arguments.steps)
        real_batch.seconds.clear()
        for number in range(arguments.rounds):
            trainer._next_batch = real_batch
            seconds = block(trainer, phase, arguments.steps)
            stepped += seconds
            with_loader = statistics.median(seconds)
            trainer._next_batch = lambda: cached
            without = statistics.median(block(trainer, phase, arguments.steps))
            ratios.append(with_loader / without)
            loaded.append(with_loader)
            repeated.append(without)
            print(
                f"{name}  round {number + 1}  loader {1e3 * with_loader:7.1f} ms  cached "
                f"{1e3 * without:7.1f} ms  ratio {ratios[-1]:.3f}",
                flush=True,
            )
    return {
        "case": name,
        "loader_ms": round(1e3 * statistics.median(loaded), 1),
        "cached_ms": round(1e3 * statistics.median(repeated), 1),
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "waited_share": round(sum(real_batch.seconds) / sum(stepped), 4),
        "loader_cpu_ms": round(1e3 * alone, 1),
        "step_cpu_ms": round(1e3 * step_cpu, 1),
        "loader_share_of_cpu": round(alone / step_cpu, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--hours", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "corpus").mkdir()
        make_corpus(Path(root) / "corpus", arguments.hours, 4)
        for name, config in cases(Path(root), arguments.device).items():
            if arguments.only in name:
                print(json.dumps(compare(name, config, arguments)), flush=True)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
