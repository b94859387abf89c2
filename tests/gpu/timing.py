"""Time, floating-point operations, memory and kernels of one call on the device."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from speechmill.codecs.precision import AUTOCAST, autocast
from tests.gpu.kit import DEVICE, DRY_RUN, OUT, sized

Call = Callable[[], Any]
_SYNCHRONISATIONS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def sync() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(compute: Call, rounds: int = 5, warm: int = 2) -> tuple[float, float]:
    """Return the median and the least wall seconds of a call, including the device's work."""
    if DRY_RUN:
        rounds, warm = 1, 0
    for _ in range(warm):
        compute()
    milliseconds = [call_ms(compute) for _ in range(rounds)]
    return statistics.median(milliseconds) / 1e3, min(milliseconds) / 1e3


def call_ms(compute: Call) -> float:
    """Return the wall milliseconds of one call, including the device's work."""
    sync()
    started = time.perf_counter()
    compute()
    sync()
    return (time.perf_counter() - started) * 1e3


def in_new_threads(compute: Callable[[], float], count: int) -> list[float]:
    """Return the results of calls in new threads, one after another."""
    values = []
    for _ in range(count):
        with ThreadPoolExecutor(1) as thread:
            values.append(thread.submit(compute).result())
    return values


def computing(precision: str) -> AbstractContextManager[Any]:
    """Compute in `precision` inside the block, without gradients."""
    stack = ExitStack()
    stack.enter_context(torch.inference_mode())
    stack.enter_context(autocast(precision, torch.device(DEVICE)))
    return stack


def count_flop(compute: Call) -> int:
    """Return the operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def matmul_peak(precision: str) -> float:
    """Return the TFLOP/s of a product of large square matrices."""
    size = sized(8192, 256)
    dtype = AUTOCAST.get(precision, torch.float32)
    x, y = torch.randn(2, size, size, device=DEVICE, dtype=dtype).unbind()
    with computing(precision):
        median, _ = timed(lambda: x @ y)
    return 2 * size**3 / median / 1e12


def peak_memory() -> float:
    """Return the most GB allocated on the device since the last call."""
    if DEVICE != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def profile_kernels(compute: Call, label: str, longest: int = 30) -> dict[str, float]:
    """Count the kernels of one call and sum their time; append the longest to profiles.txt."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])
    compute()
    sync()
    with profile(activities=activities) as found:
        compute()
        sync()
    events = found.events()
    on_device = [e for e in events if getattr(e.device_type, "name", "") == "CUDA"]
    spent_us = defaultdict(list)
    for event in on_device:
        spent_us[event.name].append(event.time_range.elapsed_us())
    facts = {
        "kernels": len(on_device),
        "gpu_ms": round(sum(map(sum, spent_us.values())) / 1e3, 3),
        "copies": sum("Memcpy" in e.name or "Memset" in e.name for e in on_device),
        "syncs": sum(e.name in _SYNCHRONISATIONS for e in events),
    }
    sort = "self_device_time_total" if DEVICE == "cuda" else "self_cpu_time_total"
    table = found.key_averages().table(sort_by=sort, row_limit=longest, max_name_column_width=90)
    with (OUT / "profiles.txt").open("a") as file:
        file.write(f"\n\n######## {label}\n{facts}\n{_kernel_lines(spent_us, longest)}\n")
        file.write(table[:20_000])
    return facts


def _kernel_lines(spent_us: dict[str, list[float]], longest: int) -> str:
    total = max(sum(map(sum, spent_us.values())), 1e-9)
    ranked = sorted(spent_us.items(), key=lambda item: -sum(item[1]))[:longest]
    return "\n".join(
        f"{sum(us) / 1e3:9.3f} ms {100 * sum(us) / total:5.1f} % {len(us):5d} x  {name[:150]}"
        for name, us in ranked
    )
