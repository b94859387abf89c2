"""One codec at full size: its speed by precision, and what slows it down or changes its codes."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from speechmill.codecs import Codec
from tests.gpu.inputs import row_lengths
from tests.gpu.kit import DEVICE, attempt, collect_garbage, emit, seconds_left, sized
from tests.gpu.mismatch import measure_mismatch
from tests.gpu.network import PRECISIONS, capture_graph, load, network_call, noise_batch
from tests.gpu.timing import (
    call_ms,
    computing,
    count_flop,
    in_new_threads,
    matmul_peak,
    peak_memory,
    profile_kernels,
    timed,
)

BATCH_SECONDS = 160.0  # with padding
SECONDS = sized(row_lengths(BATCH_SECONDS), [0.3, 0.4])  # of each row
NEW_SHAPES = sized(
    [row_lengths(BATCH_SECONDS, 6.0 + 0.571 * i) for i in range(10)], [[0.2, 0.3], [0.25, 0.35]]
)
BATCH_SIZES = sized({padded: row_lengths(padded) for padded in (40.0, 640.0, 1280.0)}, {0.3: [0.3]})
CLIP_LENGTHS = sized(
    {longest: row_lengths(BATCH_SECONDS, longest) for longest in (2.0, 20.0, 75.0)}, {0.3: [0.3]}
)


def codec(name: str) -> None:
    for precision in PRECISIONS:
        with attempt("speed", codec=name, precision=precision):
            measure_precision(name, precision)
        collect_garbage()
        if seconds_left() < 12:
            emit(step="speed", codec=name, skipped="no time left for further precisions")
            break
    if seconds_left() > 10:
        with attempt("mismatch", codec=name):
            measure_mismatch(name)


def measure_precision(name: str, precision: str) -> None:
    """Measure the speed in one precision, and everything else in the first of them."""
    started = time.perf_counter()
    codec = load(name, precision)
    loading = time.perf_counter() - started
    batch = noise_batch(codec.info.sample_rate, SECONDS)
    first_ms = call_ms(lambda: codec.encode(*batch))
    peak_memory()
    median, least = timed(lambda: codec.encode(*batch).cpu(), 5, 1)
    facts: dict[str, Any] = {"first_ms": round(first_ms, 1), "load_s": round(loading, 1)}
    in_depth = precision == PRECISIONS[0]
    if in_depth:
        label = f"{name} {precision} {sum(SECONDS):.0f} s"
        facts |= profile_kernels(lambda: codec.encode(*batch), label)
    with attempt("flops", codec=name):
        facts |= share_of_peak(count_flop(lambda: codec.encode(*batch)), median, precision)
    emit(
        step="speed",
        codec=name,
        precision=precision,
        audio_s=round(sum(SECONDS), 1),
        rows=len(SECONDS),
        ms=round(median * 1e3, 2),
        least_ms=round(least * 1e3, 2),
        x_real_time=round(sum(SECONDS) / median),
        peak_GB=peak_memory(),
        **facts,
    )
    if in_depth:
        measure_in_depth(name, precision, codec, batch)


def share_of_peak(flop: int, seconds: float, precision: str) -> dict[str, float]:
    peak = matmul_peak(precision)
    return {
        "TFLOP": round(flop / 1e12, 3),
        "TFLOPs": round(flop / seconds / 1e12, 1),
        "matmul_peak": round(peak, 1),
        "share": round(flop / seconds / 1e12 / peak, 3),
    }


def measure_in_depth(name: str, precision: str, codec: Codec, batch: tuple[Tensor, Tensor]) -> None:
    with attempt("new shapes", codec=name):
        measure_new_shapes(name, codec)
    with attempt("new thread", codec=name):
        spent = [call_ms(lambda: codec.encode(*batch))]
        spent += in_new_threads(lambda: call_ms(lambda: codec.encode(*batch)), sized(3, 1))
        emit(step="new thread", codec=name, same_shape_ms=[round(ms, 1) for ms in spent])
    with attempt("graph", codec=name):
        measure_graph(name, precision, codec, batch)
    collect_garbage()
    with attempt("busy", codec=name):
        measure_busy_threads(name, codec, batch)
    with attempt("batch size", codec=name):
        for padded, seconds in BATCH_SIZES.items():
            measure_batch("batch size", name, codec, seconds, padded_s=padded)
        for longest, seconds in CLIP_LENGTHS.items():
            measure_batch("clip length", name, codec, seconds, longest_s=longest)
    collect_garbage()


def measure_new_shapes(name: str, codec: Codec) -> None:
    """Time batches of new shapes, twice: hardly any two batches of a run have the same shape."""
    rate = codec.info.sample_rate
    batches = [noise_batch(rate, seconds) for seconds in NEW_SHAPES]
    first, again = (
        [call_ms(lambda batch=batch: codec.encode(*batch)) for batch in batches] for _ in range(2)
    )
    total = sum(float(num_samples_B.sum()) for _, num_samples_B in batches) / rate
    emit(
        step="new shapes",
        codec=name,
        first_ms=[round(ms, 1) for ms in first],
        again_ms=[round(ms, 1) for ms in again],
        x_real_time_first=round(1e3 * total / sum(first)),
        x_real_time_again=round(1e3 * total / sum(again)),
    )


def measure_graph(name: str, precision: str, codec: Codec, batch: tuple[Tensor, Tensor]) -> None:
    """Replay the network as a CUDA graph; a CPU can only check that the right part is captured."""
    call = network_call(codec, *batch)
    if DEVICE != "cuda":
        with computing(precision):
            codes_BKF, expected_BKF = call(), codec.encode(*batch)
        frames = [codec.info.num_frames(n) for n in batch[1].tolist()]
        same = all(
            torch.equal(row[:, :count], expected[:, :count])
            for row, expected, count in zip(codes_BKF, expected_BKF, frames, strict=True)
        )
        emit(step="graph", codec=name, skipped="cpu", same_codes=same)
        return
    started = time.perf_counter()
    graph, codes_BKF = capture_graph(codec, batch, precision)
    torch.cuda.synchronize()
    capture = time.perf_counter() - started
    median, _ = timed(graph.replay, 8, 2)
    with computing(precision):
        eager, _ = timed(call, 5, 1)
        same = bool((call() == codes_BKF).all())
    emit(
        step="graph",
        codec=name,
        capture_s=round(capture, 2),
        ms=round(median * 1e3, 2),
        eager_network_ms=round(eager * 1e3, 2),
        x_real_time=round(sum(SECONDS) / median),
        same_codes=same,
        peak_GB=peak_memory(),
    )


def measure_busy_threads(name: str, codec: Codec, batch: tuple[Tensor, Tensor]) -> None:
    """Time encode while other threads run Python, as Ray and Parquet do in a worker."""
    before, milliseconds = sys.getswitchinterval(), {}
    try:
        for interval in sized((5e-3, 1e-4), (1e-4,)):
            sys.setswitchinterval(interval)
            for count in sized((1, 3), (1,)):
                with busy_threads(count):
                    median, _ = timed(lambda: codec.encode(*batch), 4, 1)
                label = f"{count} busy, switch {interval * 1e3:g} ms"
                milliseconds[label] = round(median * 1e3, 1)
    finally:
        sys.setswitchinterval(before)
    emit(step="busy", codec=name, ms=milliseconds)


@contextmanager
def busy_threads(count: int) -> Iterator[None]:
    """Keep `count` threads busy with Python code inside the block."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(i for i in range(10_000))

    threads = [threading.Thread(target=spin, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def measure_batch(step: str, name: str, codec: Codec, seconds: list[float], **facts: float) -> None:
    """Time one batch with rows of these lengths."""
    peak_memory()
    batch = noise_batch(codec.info.sample_rate, seconds)
    median, _ = timed(lambda: codec.encode(*batch), 3, 1)
    emit(
        step=step,
        codec=name,
        **facts,
        rows=len(seconds),
        ms=round(median * 1e3, 1),
        x_real_time=round(sum(seconds) / median),
        peak_GB=peak_memory(),
    )
