"""torch.compile layer by layer: what it takes, how often it compiles again, and what it gives.

A dry run switches the compiler off and checks only that the step runs.
"""

import time
from typing import Any

import torch
from torch._dynamo.utils import counters

from tests.gpu.batches import noise_clips, on_device
from tests.gpu.kit import DEVICE, attempt, emit, seconds_left, sized
from tests.gpu.network import PRECISIONS, graphed, load, nearest, planned
from tests.gpu.timing import call_ms, peak_memory, profile_kernels, timed

USUAL = sized(11.0, 0.3)  # s, the width whose speed is measured
WIDTHS = sized((3.0, 5.0, 8.0, 15.0, 20.0), (0.3, 0.4))


def compile_codec(name: str) -> None:
    torch._dynamo.config.suppress_errors = False
    precision = PRECISIONS[0]
    with attempt("compile", codec=name, precision=precision):
        compare(name, precision)


def compare(name: str, precision: str) -> None:
    plain, codec = load(name, precision), load(name, precision, compile=True)
    batch, audio_s = usual_batch(codec)
    first = round(call_ms(lambda: codec.encode_padded(*batch)) / 1e3, 1)
    again = [seconds_of_a_width(codec, seconds) for seconds in WIDTHS if seconds_left() > 8]
    facts: dict[str, Any] = {"step": "compile", "codec": name, "precision": precision}
    compiled = {"first_s": first, "other_widths_s": again, "graphs": compiled_graphs()}
    emit(**facts, **compiled)
    with attempt("mismatch", codec=name):
        differs = codec.encode_padded(*batch) != plain.encode_padded(*batch)
        emit(**facts, mismatch=float(differs.double().mean()))
    for what, one in (("eager", plain), ("compiled", codec)):
        with attempt(what, codec=name):
            emit(**facts, what=what, **speed(one, batch, audio_s, f"{name} {precision} {what}"))


def usual_batch(codec: Any) -> tuple[tuple[torch.Tensor, torch.Tensor], float]:
    """Return a batch on the device and the seconds of audio in it."""
    shapes = planned(codec.info)
    bucket = nearest(codec.info, shapes, USUAL)
    clips = noise_clips(codec.info, shapes, bucket)
    shape = (shapes.rows[bucket], shapes.widths[bucket])
    return on_device(clips, shape, DEVICE), sum(map(len, clips)) / codec.info.sample_rate


def seconds_of_a_width(codec: Any, seconds: float) -> float:
    """Return what the first batch of a width takes; more than the second if it was compiled."""
    shapes = planned(codec.info)
    bucket = nearest(codec.info, shapes, seconds)
    shape = (shapes.rows[bucket], shapes.widths[bucket])
    batch = on_device([], shape, DEVICE)
    started = time.perf_counter()
    codec.encode_padded(*batch).cpu()
    return round(time.perf_counter() - started, 2)


def compiled_graphs() -> int:
    """Return how many times a layer was compiled, again for other widths included."""
    return counters["stats"]["unique_graphs"]


def speed(
    codec: Any, batch: tuple[torch.Tensor, torch.Tensor], audio_s: float, label: str
) -> dict[str, float]:
    peak_memory()
    eager, _ = timed(lambda: codec.encode_padded(*batch), 6, 2)
    peak = peak_memory()
    kernels = profile_kernels(lambda: codec.encode_padded(*batch), label)
    graph = graphed(codec, batch[0].numel())
    replay, _ = timed(lambda: graph(*batch), 6, 3)
    return {
        "ms": round(eager * 1e3, 2),
        "x_real_time": round(audio_s / eager),
        "graph_ms": round(replay * 1e3, 2),
        "graph_x": round(audio_s / replay),
        "peak_GB": peak,
        **kernels,
    }
