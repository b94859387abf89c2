"""Codecs as a GPU runs them, the part of them that a CUDA graph can hold, and batches of audio."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from speechmill.codecs import Codec, load_codec
from speechmill.codecs.nn.masks import pad_or_trim
from tests.gpu.inputs import arguments_of, sample_speech
from tests.gpu.kit import DEVICE, sized
from tests.gpu.timing import computing

PRECISIONS = sized(("bf16", "tf32", "fp16", "fp32"), ("fp32",))  # the first is measured in depth
_RANDOM_WEIGHTS = (
    ("focalcodec.weights", "untrained_focalcodec"),
    ("simwhisper.weights", "untrained_simwhisper"),
    ("pure.weights", "untrained_pure"),
    ("hasrd.weights", "untrained_hasrd"),
    ("hasrd.weights", "untrained_ssl"),
    ("dualcodec.weights", "untrained_dualcodec"),
    ("dualcodec.weights", "untrained_w2vbert"),
)


def load(name: str, precision: str, **options: Any) -> Codec:
    """Load a codec that encodes a batch at once, as it does on a GPU."""
    arguments = {**arguments_of(name), "precision": precision, "device": DEVICE, **options}
    _reuse_random_weights()
    codec: Any = load_codec(**arguments)
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


def network_call(codec: Any, audio_BT: Tensor, num_samples_B: Tensor) -> Callable[[], Tensor]:
    """Return the part of `encode` that runs on the device alone, which a CUDA graph can hold."""
    lengths = num_samples_B.tolist()
    num_frames = [codec.info.num_frames(n) for n in lengths]
    lengths_B = torch.tensor(lengths, device=audio_BT.device)
    frames_B = torch.tensor(num_frames, device=audio_BT.device)
    match type(codec).__name__:
        case "SimWhisperCodec":
            return lambda: codec.network.encode(audio_BT, max(num_frames), lengths_B)
        case "DualCodec":
            return lambda: codec._code(audio_BT, lengths_B, frames_B)
        case "HasrdCodec":
            hop = codec.info.hop_length
            filled = [max(n, f * hop) for n, f in zip(lengths, num_frames, strict=True)]
            filled_B = torch.tensor(filled, device=audio_BT.device)
            padded_BT = pad_or_trim(audio_BT, max(filled))
            return lambda: codec._code(padded_BT, lengths_B, filled_B, frames_B, max(filled))
        case "PureCodec":
            return lambda: codec._encode(audio_BT, lengths_B)
    return lambda: codec.network.encode(audio_BT, lengths_B)


def capture_graph(
    codec: Codec, batch: tuple[Tensor, Tensor], precision: str
) -> tuple["torch.cuda.CUDAGraph", Tensor]:
    """Return the CUDA graph of the network and the tensor that a replay fills with codes."""
    call = network_call(codec, *batch)
    with computing(precision):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            codes_BKF = call()
    return graph, codes_BKF


def noise_batch(rate: int, seconds: list[float]) -> tuple[Tensor, Tensor]:
    """Return audio_BT and num_samples_B: noise with an envelope of syllables.

    Speed does not depend on the signal; attention and masks depend on the lengths.
    """
    lengths = [int(s * rate) for s in seconds]
    generator = torch.Generator(DEVICE).manual_seed(0)
    audio_BT = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator, device=DEVICE)
    time_T = torch.arange(max(lengths), device=DEVICE) / rate
    audio_BT *= torch.sin(2 * torch.pi * 2.5 * time_T).clamp(min=0.05)
    for row_T, length in zip(audio_BT, lengths, strict=True):
        row_T[length:] = 0
    return audio_BT, torch.tensor(lengths)


def real_clips(rate: int, count: int, longest: float) -> list[Tensor]:
    """Return the first `longest` seconds of `count` recordings of samples/ that last over 1 s."""
    recordings = (audio_T for audio_T in sample_speech(rate) if len(audio_T) > rate)
    clips = (audio_T[: int(longest * rate)].copy() for audio_T in islice(recordings, count))
    return [torch.from_numpy(clip_T) for clip_T in clips]
