"""Training steps with discriminators, by precision, and the loader beside them."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from math import isfinite
from unittest.mock import patch

import torch

from speechmill.codecs import load_recipe
from speechmill.codecs.discriminators import Discriminators
from speechmill.codecs.losses import GAN_LOSSES, feature_matching
from speechmill.codecs.precision import autocast
from speechmill.codecs.recipe import Recipe, TrainingBatch
from speechmill.jobs.training.config import OptimizerSettings
from speechmill.jobs.training.optim import Optimizer
from tests.gpu.inputs import arguments_of
from tests.gpu.kit import DEVICE, ROOT, attempt, collect_garbage, emit, seconds_left, sized
from tests.gpu.timing import peak_memory, profile_kernels, timed

CASES = (  # codec, phase, rows, seconds of a crop
    ("focalcodec-50hz", "vocoder", 16, 2.0),
    ("pure-4k", "vae", 16, 1.0),
    ("dualcodec-12hz", "codec", 8, 2.0),
)[: sized(3, 2)]  # the tiny DualCodec cannot be trained: its latents are too wide


def train() -> None:
    measure_loader()
    for name, phase, rows, crop in CASES:
        for precision in sized(("fp32", "tf32", "bf16", "fp16"), ("fp32",)):
            if seconds_left() < 8:
                emit(step="train", codec=name, precision=precision, skipped="no time left")
                continue
            with attempt("train", codec=name, precision=precision):
                measure_step(name, phase, precision, sized(rows, 2), sized(crop, 0.32))
            collect_garbage()


def measure_loader() -> None:
    """Run the benchmark of the loader: in its own process, but for a dry run."""
    amount = {"--rounds": 1, "--steps": sized(20, 1), "--hours": sized(0.2, 0.005)}
    where = {"--device": DEVICE, "--threads": sized(2, 1), "--only": sized("pure", "focalcodec")}
    options = [str(each) for pair in {**amount, **where}.items() for each in pair]
    code, output, error = sized(run_benchmark, run_benchmark_here)(options)
    print(output[-2000:], error[-2000:], flush=True)
    emit(
        step="train",
        what="tests/bench/train.py",
        rc=code,
        found=[json.loads(line) for line in output.splitlines() if line.startswith("{")],
        error=error[-300:] if code else None,
    )


def run_benchmark(options: list[str]) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "tests.bench.train", *options]
    limit = max(5, seconds_left() * 0.4)
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


def run_benchmark_here(options: list[str]) -> tuple[int, str, str]:
    from tests.bench import train

    output = io.StringIO()
    with redirect_stdout(output), patch.object(sys, "argv", ["train.py", *options]):
        train.main()
    return 0, output.getvalue(), ""


def measure_step(name: str, phase: str, precision: str, rows: int, crop: float) -> None:
    step = training_step(name, phase, precision, rows, crop)
    peak_memory()
    median, _ = timed(step)
    label = f"train {name} {phase} {precision}"
    facts = profile_kernels(step, label, 20) if precision == "bf16" else {}
    emit(
        step="train",
        codec=name,
        phase=phase,
        precision=precision,
        rows=rows,
        crop_s=crop,
        ms=round(median * 1e3, 1),
        loss_is_finite=isfinite(step()),
        peak_GB=peak_memory(),
        **facts,
    )


def training_step(
    name: str, phase: str, precision: str, rows: int, crop: float
) -> Callable[[], float]:
    """Return a step of the codec and of its discriminators, which returns the codec's loss."""
    recipe = load_untrained(name, phase)
    size = int(crop * recipe.sample_rate) // recipe.hop_length * recipe.hop_length
    batch = TrainingBatch(0.1 * torch.randn(rows, size, device=DEVICE))
    widths = sized({}, {"period_channels": (4, 8), "band_channels": 4})
    discriminators = Discriminators(**widths).to(DEVICE)
    device = torch.device(DEVICE)
    optimizer, discriminator_optimizer = (
        Optimizer(parameters, OptimizerSettings(), precision, device)
        for parameters in (recipe.trainable_parameters().values(), discriminators.parameters())
    )
    generator_loss, discriminator_loss = GAN_LOSSES[recipe.gan]

    def step() -> float:
        with autocast(precision, device):
            output = recipe(batch)
            discriminators.requires_grad_(False)
            fake = discriminators(output.audio_BT)
            with torch.no_grad():
                real = discriminators(output.target_BT)
            discriminators.requires_grad_(True)
            features = feature_matching(real, fake, mean=recipe.mean_features)
            adversarial = {"adversarial": generator_loss(fake), "feature": features}
            loss = recipe.weighted({**output.terms, **adversarial})
        norms = [optimizer.backward(loss)]
        with autocast(precision, device):
            both = discriminators(torch.cat([output.target_BT, output.audio_BT.detach()]))
            real = [[f.chunk(2)[0] for f in one] for one in both]
            fake = [[f.chunk(2)[1] for f in one] for one in both]
            judged = discriminator_loss(real, fake)
        norms.append(discriminator_optimizer.backward(judged))
        # As in the trainer, the device is waited for once.
        loss_value, *found = torch.stack([loss.detach(), *norms]).tolist()
        for each, norm in zip((optimizer, discriminator_optimizer), found, strict=True):
            if isfinite(norm):  # in fp16 the first norms are not: the scale is too large
                each.step(1e-5)
        return loss_value

    return step


def load_untrained(name: str, phase: str) -> Recipe:
    arguments = arguments_of(name)
    config = arguments.get("config")
    recipe = load_recipe(arguments["name"], checkpoint="untrained", config=config)
    recipe.to(DEVICE).train()
    recipe.begin_phase(phase)
    return recipe
