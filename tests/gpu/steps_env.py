"""The machine: its libraries, the peaks of its arithmetic, its copies."""

import os
import subprocess
import sys

import torch

from speechmill.codecs import load_codec
from speechmill.pipeline.tokenize.fixed_batches import BatchEncoder
from tests.gpu.batches import fixed_batch, noise_clips
from tests.gpu.kit import DEVICE, attempt, emit, sized
from tests.gpu.network import nearest, planned
from tests.gpu.timing import matmul_peak, timed

_QUERY = "--query-gpu=name,memory.total,driver_version,clocks.sm,temperature.gpu"
_COMMANDS = {
    "nvidia-smi": f"nvidia-smi {_QUERY} --format=csv,noheader",
    "grep": "grep -m1 'model name' /proc/cpuinfo",
    "free": "free -g | sed -n 2p",
    "df shm": "df -h /dev/shm | tail -1",
    "uname": "uname -r",
}


def env() -> None:
    emit(step="env", **machine_facts())
    for precision in sized(("bf16", "fp16", "tf32", "fp32"), ("bf16", "fp32")):
        with attempt("peak", precision=precision):
            emit(step="matmul peak", precision=precision, TFLOPs=round(matmul_peak(precision), 1))
    if DEVICE == "cuda":
        with attempt("copies"):
            measure_copies()
    with attempt("staging"):
        for seconds in sized((3.0, 11.0), (0.3,)):
            measure_staging(seconds)


def machine_facts() -> dict[str, object]:
    versions = {"torch": torch.__version__, "python": sys.version.split()[0]}
    facts: dict[str, object] = {**versions, "cpus": os.cpu_count()}
    for name, command in _COMMANDS.items():
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        facts[name] = (done.stdout or done.stderr).strip()[:200]
    if DEVICE == "cuda":
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["capability"] = torch.cuda.get_device_capability()
        matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
        facts["precision defaults"] = [matmul.fp32_precision, conv.fp32_precision]
    return facts


def measure_copies() -> None:
    source, target = torch.empty(2, 2**30, dtype=torch.float32, device="cuda").unbind()
    inside, _ = timed(lambda: target.copy_(source))
    pinned = torch.empty(2**28, dtype=torch.int16).pin_memory()
    there = torch.empty(2**28, dtype=torch.int16, device="cuda")
    from_pinned, _ = timed(lambda: there.copy_(pinned, non_blocking=True))
    pageable = torch.empty(2**26, dtype=torch.int16)
    small = torch.empty(2**26, dtype=torch.int16, device="cuda")
    from_pageable, _ = timed(lambda: small.copy_(pageable))
    pin, _ = timed(lambda: pageable[: 160 * 16_000].pin_memory())
    emit(
        step="copies",
        device_TBs=round(2 * source.numel() * 4 / inside / 1e12, 2),
        h2d_pinned_GBs=round(2**29 / from_pinned / 1e9, 1),
        h2d_pageable_GBs=round(2**27 / from_pageable / 1e9, 1),
        pin_160s_ms=round(pin * 1e3, 2),
    )
    one = torch.zeros(1, device="cuda")
    thousand, _ = timed(lambda: [one.add_(1) for _ in range(1000)], warm=1)
    emit(step="launch", us_per_eager_op=round(thousand * 1e3, 2))


def measure_staging(seconds: float) -> None:
    """Time copies of a batch to the device and of its codes back, by the null codec."""
    codec = load_codec("null", device=DEVICE)
    shapes = planned(codec.info)
    bucket = nearest(codec.info, shapes, seconds)
    clips = noise_clips(codec.info, shapes, bucket)
    encoder = BatchEncoder(codec, shapes, torch.device(DEVICE))
    batch = fixed_batch(clips, codec.info, bucket)
    median, _ = timed(lambda: encoder.finish(encoder.launch(batch)), 10)
    padded = shapes.rows[bucket] * shapes.widths[bucket] / codec.info.sample_rate
    emit(step="staging", rows=len(clips), padded_s=round(padded), ms=round(median * 1e3, 2))
