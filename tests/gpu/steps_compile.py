"""torch.compile: the whole network for one width, and its layers one by one for all lengths.

A dry run switches the compiler off and checks only that the steps run.
"""

import time
from typing import Any

import torch

from tests.gpu.inputs import row_lengths
from tests.gpu.kit import attempt, emit, sized
from tests.gpu.network import PRECISIONS, load, noise_batch
from tests.gpu.timing import call_ms, peak_memory, profile_kernels, timed

SECONDS = sized(row_lengths(160.0), [0.3, 0.4])
_LAYERS = ("TransformerLayer", "FocalBlock", "ConvBlock", "ResidualUnit")


def compile_codec(name: str) -> None:
    torch._dynamo.config.suppress_errors = False
    precision = PRECISIONS[0]
    with attempt("compile", codec=name, precision=precision):
        compile_network(name, precision)
    with attempt("regional", codec=name):
        compile_layers(name, precision)


def compile_network(name: str, precision: str) -> None:
    plain, codec = load(name, precision), load(name, precision, compile=True)
    batch = noise_batch(codec.info.sample_rate, SECONDS)
    started = time.perf_counter()
    codes_BKF = codec.encode(*batch).cpu()
    first = round(time.perf_counter() - started, 1)
    differs = (codes_BKF != plain.encode(*batch).cpu()).double().mean()
    facts: dict[str, Any] = {"step": "compile", "codec": name, "precision": precision}
    emit(**facts, first_s=first, mismatch=float(differs))
    peak_memory()
    median, _ = timed(lambda: codec.encode(*batch), 6, 2)
    kernels = profile_kernels(lambda: codec.encode(*batch), f"{name} {precision} compiled")
    speed = {"ms": round(median * 1e3, 2), "x_real_time": round(sum(SECONDS) / median)}
    emit(**facts, **speed, peak_GB=peak_memory(), **kernels)
    fewer = noise_batch(codec.info.sample_rate, [s * 0.999 for s in SECONDS[1:]])
    seconds = round(call_ms(lambda: codec.encode(*fewer)) / 1e3, 2)
    emit(step="compile", codec=name, what="fewer rows of the same width", s=seconds)


def compile_layers(name: str, precision: str) -> None:
    codec: Any = load(name, precision)
    batch = noise_batch(codec.info.sample_rate, SECONDS)
    layers = [m for m in codec.network.modules() if type(m).__name__ in _LAYERS]
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
    first = call_ms(lambda: codec.encode(*batch)) / 1e3
    median, _ = timed(lambda: codec.encode(*batch), 6, 2)
    emit(
        step="compile",
        codec=name,
        what="layer by layer, dynamic",
        first_s=round(first, 1),
        ms=round(median * 1e3, 2),
        x_real_time=round(sum(SECONDS) / median),
    )
