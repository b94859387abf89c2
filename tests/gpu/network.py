"""Codecs as a GPU runs them, the shapes of their batches, their CUDA graphs, and real speech."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import islice
from math import ceil
from typing import Any

import torch
from torch import Tensor

from speechmill.codecs import CodecInfo, load_codec
from speechmill.codecs.cuda_graphs import GraphedEncoder
from speechmill.codecs.shapes import BatchShapes, ShapeSettings, plan_shapes
from tests.gpu.inputs import arguments_of, sample_speech
from tests.gpu.kit import DEVICE, DRY_RUN, sized

PRECISIONS = sized(("bf16", "tf32", "fp16", "fp32"), ("fp32",))  # the first is measured in depth
_DRY_WIDTHS = (0.3, 0.4, 2.1)  # s; the last one holds the known clip
_RANDOM_WEIGHTS = (
    ("focalcodec.weights", "untrained_focalcodec"),
    ("simwhisper.weights", "untrained_simwhisper"),
    ("pure.weights", "untrained_pure"),
    ("hasrd.weights", "untrained_hasrd"),
    ("hasrd.weights", "untrained_ssl"),
    ("dualcodec.weights", "untrained_dualcodec"),
    ("dualcodec.weights", "untrained_w2vbert"),
)


def load(name: str, precision: str, **options: Any) -> Any:
    """Load a codec that encodes a batch at once, as it does on a GPU.

    Its codes are compared with float32 by the steps that ask for it, so it is not checked here.
    """
    arguments = {**arguments_of(name), "precision": precision, "device": DEVICE, **options}
    _reuse_random_weights()
    codec: Any = load_codec(**arguments, self_check=False)
    codec._runner = replace(codec._runner, row_by_row=False)
    return codec


@cache
def _reuse_random_weights() -> None:
    """Draw random weights once in a process: at full size that takes seconds on one CPU core."""
    for module_name, function in _RANDOM_WEIGHTS:
        module = import_module(f"speechmill.codecs.{module_name}")
        setattr(module, function, _copying(getattr(module, function)))


def _copying(build: Callable[..., Any]) -> Callable[..., Any]:
    built: dict[str, Any] = {}

    def build_or_copy(*arguments: Any) -> Any:
        key = repr(arguments)
        if key not in built:
            built[key] = build(*arguments)
        return copy.deepcopy(built[key])

    return build_or_copy


def planned(info: CodecInfo) -> BatchShapes:
    """Return the shapes of the pipeline's batches; in a dry run fewer and smaller ones."""
    if not DRY_RUN:
        return plan_shapes(info, ShapeSettings())
    frames = (ceil(seconds * info.frame_rate) for seconds in _DRY_WIDTHS)
    return BatchShapes(tuple(info.hop_length * count for count in frames), (2, 2, 1))


def nearest(info: CodecInfo, shapes: BatchShapes, seconds: float) -> int:
    """Return the position of the width that is nearest to a length."""
    away = [abs(width / info.sample_rate - seconds) for width in shapes.widths]
    return away.index(min(away))


class Recomputed:
    """Takes the place of a CUDA graph in a dry run: a replay computes everything again."""

    def __init__(self, compute: Callable[[], Tensor]) -> None:
        self._compute = compute
        self.codes_BKF = compute().clone()

    def replay(self) -> None:
        self.codes_BKF.copy_(self._compute())


def graphed(codec: Any, capacity: int) -> GraphedEncoder:
    """Return the codec with a CUDA graph for each shape of up to `capacity` samples."""
    capture = Recomputed if DRY_RUN else None
    return GraphedEncoder(codec.encode_padded, torch.device(DEVICE), capacity, capture)


def full_batch(rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Return audio_RT, which is noise, and lengths_R, on the device."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    audio_RT = 0.1 * torch.randn(rows, width, generator=generator, device=DEVICE)
    return audio_RT, torch.full((rows,), width, device=DEVICE)


def real_clips(rate: int, count: int, longest: float) -> list[Tensor]:
    """Return the first `longest` seconds of `count` recordings of samples/ that last over 1 s."""
    recordings = (audio_T for audio_T in sample_speech(rate) if len(audio_T) > rate)
    clips = (audio_T[: int(longest * rate)].copy() for audio_T in islice(recordings, count))
    return [torch.from_numpy(clip_T) for clip_T in clips]
