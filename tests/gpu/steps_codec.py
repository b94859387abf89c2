"""One codec at full size: its speed by precision in the pipeline's shapes, and what slows it."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from speechmill.codecs.shapes import BatchShapes
from speechmill.pipeline.tokenize.fixed_batches import BatchEncoder
from tests.gpu.batches import noise_clips, on_device, seconds_per_batch
from tests.gpu.kit import DEVICE, attempt, collect_garbage, emit, seconds_left, sized
from tests.gpu.mismatch import measure_mismatch
from tests.gpu.network import PRECISIONS, full_batch, graphed, load, nearest, planned
from tests.gpu.timing import (
    call_ms,
    count_flop,
    in_new_threads,
    matmul_peak,
    peak_memory,
    profile_kernels,
    timed,
)

USUAL = sized(11.0, 0.3)  # s, the width that is measured in every precision
OTHERS = sized((3.0, 20.0), ())  # in the first precision
BATCH_SECONDS = sized((80.0, 160.0, 320.0, 640.0), (0.7,))
LONG_CLIP = sized(300.0, 2.0)  # s


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
    facts = {"load_s": round(time.perf_counter() - started, 1)}
    shapes = planned(codec.info)
    measure_width(name, precision, codec, shapes, USUAL, **facts)
    if precision == PRECISIONS[0]:
        for seconds in OTHERS:
            with attempt("speed", codec=name, precision=precision, seconds=seconds):
                measure_width(name, precision, codec, shapes, seconds)
        measure_in_depth(name, codec, shapes)


def measure_width(
    name: str, precision: str, codec: Any, shapes: BatchShapes, seconds: float, **facts: Any
) -> None:
    """Time a batch of one shape: without a graph, as a graph, and by the pipeline's encoder."""
    bucket = nearest(codec.info, shapes, seconds)
    clips = noise_clips(codec.info, shapes, bucket)
    shape = (shapes.rows[bucket], shapes.widths[bucket])
    audio_s = sum(map(len, clips)) / codec.info.sample_rate
    batch = on_device(clips, shape, DEVICE)
    first_ms = call_ms(lambda: codec.encode_padded(*batch))
    peak_memory()
    eager, _ = timed(lambda: codec.encode_padded(*batch), 5, 1)
    facts["peak_GB"] = peak_memory()
    with attempt("graph", codec=name, precision=precision):
        facts |= as_graph(codec, batch, audio_s)
    with attempt("pipelined", codec=name, precision=precision):
        encoder = BatchEncoder(codec, shapes, torch.device(DEVICE))
        whole = seconds_per_batch(encoder, clips, bucket, *sized((12, 3), (2, 0)))
        facts["encoder_ms"] = round(whole * 1e3, 2)
        facts["encoder_x"] = round(audio_s / whole)
    if precision == PRECISIONS[0]:
        label = f"{name} {precision} {shape[0]} x {shape[1] / codec.info.sample_rate:.2f} s"
        facts |= profile_kernels(lambda: codec.encode_padded(*batch), label)
    with attempt("flops", codec=name):
        flop = count_flop(lambda: codec.encode_padded(*batch))
        facts |= share_of_peak(flop, facts["graph_ms"] / 1e3, precision)
    emit(
        step="speed",
        codec=name,
        precision=precision,
        rows=shape[0],
        width_s=round(shape[1] / codec.info.sample_rate, 2),
        audio_s=round(audio_s, 1),
        first_ms=round(first_ms, 1),
        eager_ms=round(eager * 1e3, 2),
        eager_x=round(audio_s / eager),
        **facts,
    )


def as_graph(codec: Any, batch: tuple[Tensor, Tensor], audio_s: float) -> dict[str, Any]:
    """Time the replay of a CUDA graph, and compare its codes with those of a usual call."""
    graph = graphed(codec, batch[0].numel())
    capture_ms = call_ms(lambda: graph(*batch))
    replay, _ = timed(lambda: graph(*batch), 8, 1)
    return {
        "capture_ms": round(capture_ms, 1),
        "graph_ms": round(replay * 1e3, 2),
        "graph_x": round(audio_s / replay),
        "same_codes": torch.equal(graph(*batch), codec.encode_padded(*batch)),
    }


def share_of_peak(flop: int, seconds: float, precision: str) -> dict[str, float]:
    """Return the share of the matmul peak; operations of Triton kernels are not counted."""
    peak = matmul_peak(precision)
    return {
        "TFLOP": round(flop / 1e12, 3),
        "TFLOPs": round(flop / seconds / 1e12, 1),
        "matmul_peak": round(peak, 1),
        "share": round(flop / seconds / 1e12 / peak, 3),
    }


def measure_in_depth(name: str, codec: Any, shapes: BatchShapes) -> None:
    bucket = nearest(codec.info, shapes, USUAL)
    rows, width = shapes.rows[bucket], shapes.widths[bucket]
    with attempt("new shapes", codec=name):
        measure_every_width(name, codec, shapes)
    collect_garbage()
    with attempt("batch size", codec=name):
        for seconds in BATCH_SECONDS:
            measure_batch("batch size", name, codec, int(seconds * codec.info.sample_rate), width)
    with attempt("long clip", codec=name):
        widest = shapes.widths[shapes.bucket(int(LONG_CLIP * codec.info.sample_rate))]
        measure_batch("long clip", name, codec, widest, widest)
    collect_garbage()
    with attempt("new thread", codec=name):
        batch = full_batch(rows, width)
        spent = [call_ms(lambda: codec.encode_padded(*batch))]
        spent += in_new_threads(lambda: call_ms(lambda: codec.encode_padded(*batch)), sized(3, 1))
        emit(step="new thread", codec=name, same_shape_ms=[round(ms, 1) for ms in spent])
    with attempt("busy", codec=name):
        graph = graphed(codec, rows * width)
        for what, encode in (("eager", codec.encode_padded), ("graph", graph)):
            measure_busy_threads(name, what, lambda: encode(*batch))  # noqa: B023


def measure_every_width(name: str, codec: Any, shapes: BatchShapes) -> None:
    """Encode one batch of every shape three times: as usual, as a new graph, replayed."""
    graph = graphed(codec, max(w * r for w, r in zip(shapes.widths, shapes.rows, strict=True)))
    end, spent, samples = time.perf_counter() + sized(12.0, 60.0), [], 0
    for width, rows in zip(shapes.widths, shapes.rows, strict=True):
        batch = full_batch(rows, width)
        calls = (codec.encode_padded, graph, graph)
        spent.append([round(call_ms(partial(call, *batch)), 1) for call in calls])
        samples += rows * width
        if time.perf_counter() > end:
            break
    first, capture, replay = zip(*spent, strict=True)
    emit(
        step="new shapes",
        codec=name,
        widths=f"{len(spent)} of {len(shapes.widths)}",
        first_ms=first,
        capture_ms=capture,
        replay_ms=replay,
        first_s=round(sum(first) / 1e3, 1),
        capture_s=round(sum(capture) / 1e3, 1),
        x_real_time=round(1e3 * samples / codec.info.sample_rate / sum(replay)),
        reserved_GB=round(torch.cuda.memory_reserved() / 1e9, 2) if DEVICE == "cuda" else 0.0,
    )


def measure_batch(step: str, name: str, codec: Any, samples: int, width: int) -> None:
    """Time a batch of about this many samples, with padding, without a graph and as a graph."""
    peak_memory()
    batch = full_batch(max(1, samples // width), width)
    eager, _ = timed(lambda: codec.encode_padded(*batch), 2, 1)
    peak = peak_memory()
    graph = graphed(codec, batch[0].numel())
    replay, _ = timed(lambda: graph(*batch), 3, 2)
    audio_s = batch[0].numel() / codec.info.sample_rate
    emit(
        step=step,
        codec=name,
        rows=len(batch[0]),
        padded_s=round(audio_s, 1),
        eager_x=round(audio_s / eager),
        graph_x=round(audio_s / replay),
        peak_GB=peak,
    )


def measure_busy_threads(name: str, what: str, encode: Callable[[], Any]) -> None:
    """Time encode while other threads run Python, as Ray and Parquet do in a worker."""
    before, milliseconds = sys.getswitchinterval(), {}
    try:
        for interval in sized((5e-3, 1e-4), (1e-4,)):
            sys.setswitchinterval(interval)
            for count in sized((1, 3), (1,)):
                with busy_threads(count):
                    median, _ = timed(encode, 4, 2)
                label = f"{count} busy, switch {interval * 1e3:g} ms"
                milliseconds[label] = round(median * 1e3, 1)
    finally:
        sys.setswitchinterval(before)
    emit(step="busy", codec=name, what=what, ms=milliseconds)


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
