"""How fast each codec encodes at full size, and how near that is to the speed of this device.

    python -m tests.bench.encode [focalcodec-50hz …] [--device cuda --precision bf16 --compile]

The weights are random, because speed does not depend on them. Each codec runs in its own process
with the allocator settings of the workers. `beside_authors` compares with the authors' code. On a
GPU it times what the pipeline encodes there: batches of the planned shapes, already on the device,
with and without a CUDA graph, and by `BatchEncoder`, from clips to codes on the host. x real time
counts the clips, not the padding.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

from speechmill.codecs.shapes import BatchShapes
from speechmill.pipeline.run.ray_local import ALLOCATOR

CODECS = (
    "focalcodec-50hz",
    "focalcodec-25hz",
    "focalcodec-12_5hz",
    "focalcodec-50hz-4k-causal",
    "dualcodec-12hz",
    "dualcodec-25hz",
    "simwhisper-16k",
    "hasrd-2k",
    "pure-1k",
)
MIXED = (2.0, 3.5, 5.0, 7.5, 10.0, 13.0, 16.5, 20.0)  # seconds
SINGLE = 10.0
THREADS = 2
GPU_WIDTHS = (3.0, 11.0, 20.0)  # seconds
HEADER = (
    "| codec | 10 s clip, x real time | 2-20 s batch of 8 | GFLOP per s of audio | "
    "share of matmul peak: clip, batch | peak MB |"
)
GPU_HEADER = (
    "| codec | batch | eager, x real time | CUDA graph | BatchEncoder | GFLOP per s of audio | "
    "share of matmul peak | peak MB |"
)


def measure(name: str, options: argparse.Namespace) -> str:
    """One row of the table."""
    import torch

    from tests.codecs.speech import padded, speech

    torch.set_num_threads(THREADS)
    codec = load(name, options)
    rate = codec.info.sample_rate
    single = padded([speech(int(SINGLE * rate))])
    batch = padded([speech(int(s * rate), seed=i) for i, s in enumerate(MIXED)])
    gflop = count_gflop(lambda: codec.encode(*single)) / SINGLE if not options.compile else 0.0
    rounds, device = options.rounds, options.device
    peaks = [matmul_peak(device, options.precision)]
    alone = SINGLE / seconds(lambda: codec.encode(*single), rounds, device)
    peaks.append(matmul_peak(device, options.precision))
    forget_peak(device)
    mixed = sum(MIXED) / seconds(lambda: codec.encode(*batch), rounds, device)
    memory = peak_mb(device)
    peak = max(*peaks, matmul_peak(device, options.precision))
    shares = f"{alone * gflop / peak:.0%}, {mixed * gflop / peak:.0%} of {peak:,.0f}"
    return f"| {name} | {alone:,.1f} | {mixed:,.1f} | {gflop:.1f} | {shares} | {memory:,.0f} |"


def load(name: str, options: argparse.Namespace) -> Any:
    from speechmill.codecs import load_codec

    extra = {"compile": True} if options.compile else {}
    where = {"device": options.device, "precision": options.precision}
    return load_codec(name, checkpoint="untrained", **where, **extra)


def measure_on_gpu(name: str, options: argparse.Namespace) -> str:
    """Rows of the table of a GPU, one for each width."""
    from speechmill.codecs.shapes import ShapeSettings, plan_shapes

    codec = load(name, options)
    shapes = plan_shapes(codec.info, ShapeSettings())
    buckets = [shapes.bucket(int(length * codec.info.sample_rate)) for length in GPU_WIDTHS]
    return "\n".join(measure_width(name, codec, shapes, bucket, options) for bucket in buckets)


def measure_width(
    name: str, codec: Any, shapes: BatchShapes, bucket: int, options: argparse.Namespace
) -> str:
    import torch

    from speechmill.codecs.cuda_graphs import GraphedEncoder
    from speechmill.pipeline.tokenize.fixed_batches import BatchEncoder
    from tests.gpu.batches import noise_clips, on_device, seconds_per_batch

    device, rate = options.device, codec.info.sample_rate
    shape = (shapes.rows[bucket], shapes.widths[bucket])
    clips = noise_clips(codec.info, shapes, bucket)
    audio_s = sum(map(len, clips)) / rate
    batch = on_device(clips, shape, device)
    forget_peak(device)
    eager = seconds(lambda: codec.encode_padded(*batch), options.rounds, device)
    memory = peak_mb(device)
    gflop = 0.0 if options.compile else count_gflop(lambda: codec.encode_padded(*batch))
    graph = GraphedEncoder(codec.encode_padded, torch.device(device), batch[0].numel())
    graph(*batch)  # captures it
    replay = seconds(lambda: graph(*batch), options.rounds, device)
    encoder = BatchEncoder(codec, shapes, torch.device(device))
    whole = seconds_per_batch(encoder, clips, bucket)
    peak = matmul_peak(device, options.precision)
    return (
        f"| {name} | {shape[0]} x {shape[1] / rate:.2f} s | {audio_s / eager:,.0f} | "
        f"{audio_s / replay:,.0f} | {audio_s / whole:,.0f} | {gflop / audio_s:.1f} | "
        f"{gflop / replay / peak:.0%} of {peak:,.0f} | {memory:,.0f} |"
    )


def seconds(compute: Callable[[], Any], rounds: int, device: str) -> float:
    """Seconds of the fastest of `rounds` calls after a warm-up: other processes only add time."""
    import torch

    times = []
    for _ in range(rounds + 1):
        if device.startswith("cuda"):
            torch.cuda.synchronize()  # of what was started before
        started = time.perf_counter()
        compute()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def count_gflop(compute: Callable[[], Any]) -> float:
    """Operations of matrix products, convolutions and attention; a multiply-add counts as two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def packed(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * prod(x) * weight[0]

    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: packed}
    ) as counter:
        compute()
    return counter.get_total_flops() / 1e9


def matmul_peak(device: str, precision: str) -> float:
    """GFLOP/s of the fastest of ten products of large square matrices."""
    import torch

    from speechmill.codecs.precision import AUTOCAST, autocast

    size = 8192 if device.startswith("cuda") else 2048
    x, y = torch.randn(2, size, size, device=device, dtype=AUTOCAST.get(precision)).unbind()
    with torch.inference_mode(), autocast(precision, torch.device(device)):
        best = min(seconds(lambda: x @ y, 1, device) for _ in range(10))
    return 2 * size**3 / best / 1e9


def forget_peak(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device: str) -> float:
    """Memory of the device, or of the process with its weights, since `forget_peak`."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codecs", nargs="*", default=list(CODECS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ.update(ALLOCATOR)  # read by the processes that are started below
    on_gpu = options.device.startswith("cuda")
    row: Callable[[str, argparse.Namespace], str] = measure_on_gpu if on_gpu else measure
    header = GPU_HEADER if on_gpu else HEADER
    print(header + "\n" + "|---" * header.count(" | ") + "|---|", flush=True)
    for name in options.codecs:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(row, (name, options)), flush=True)


if __name__ == "__main__":
    main()
