"""The codecs that the contract is checked with: every family, small, with every option."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from speechmill.codecs import Codec, CodecInfo, codec_info, load_codec
from speechmill.codecs.dualcodec.codec import DualCodec
from speechmill.codecs.focalcodec.codec import FocalCodec
from speechmill.codecs.hasrd.codec import HasrdCodec
from speechmill.codecs.pure.codec import PureCodec
from speechmill.codecs.simwhisper.codec import SimWhisperCodec
from tests.codecs import page
from tests.codecs.dualcodec import goldens as dualcodec
from tests.codecs.focalcodec import goldens as focalcodec
from tests.codecs.focalcodec.small import CONFIGS as FOCALCODEC
from tests.codecs.hasrd.small import CONFIGS as HASRD
from tests.codecs.simwhisper import golden as simwhisper
from tests.codecs.transformers_codecs.small import CONFIGS as TRANSFORMERS

PURE = {"channels": [4, 8, 8, 16, 16], "dim": 16, "codebook_size": 64}
PURE_FRAMES = {"backbone": "frames", "strides": [320], "width": 32, "inner_width": 64, "depth": 2}
PURE_FRAMES |= {"kernel": 3, "dim": 16, "codebook_size": 64}
ON_CPU: dict[str, Any] = {"device": torch.device("cpu"), "precision": "fp32"}


@dataclass(frozen=True)
class Case:
    """A codec by the arguments of `load_codec`.

    `first_codebooks` returns arguments for the first codebooks alone, `clips` the clips whose
    tokens the authors' code computed.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    first_codebooks: Callable[[int], Mapping[str, Any]] | None = None
    clips: Callable[[], list[Tensor]] = list
    audio_tolerance: float = 1e-5  # of audio out of a masked batch
    registered: Callable[[], AbstractContextManager[None]] = nullcontext

    def load(self, **more: Any) -> Codec:
        with self.registered():
            return load_codec(self.name, **{**self.arguments, **more})

    def info(self) -> CodecInfo:
        with self.registered():
            return codec_info(self.name, **self.arguments)


def _by_config(name: str, config: Mapping[str, Any]) -> Case:
    return Case(
        name, {"config": config}, lambda books: {"config": {**config, "num_codebooks": books}}
    )


def _focalcodec(golden: str) -> Case:
    files = {
        "config": focalcodec.DATA / golden / "config.json",
        "checkpoint": focalcodec.CHECKPOINTS[golden],
    }
    return Case(
        "focalcodec",
        files,
        clips=lambda: [focalcodec.golden(golden)[f"{clip}.sig"] for clip in focalcodec.CLIPS],
    )


def _dualcodec(**options: Any) -> Case:
    return Case(
        "dualcodec",
        dualcodec.WEIGHTS | options,
        lambda books: {"num_codebooks": books},
        clips=lambda: [dualcodec.golden()[f"{clip}.audio_24k"] for clip in dualcodec.CLIPS],
        # In float64 both ways agree to 1e-14 (dualcodec/test_masks.py). In float32, rounding the
        # latent alone moves the audio of these random weights by 1e-5.
        audio_tolerance=1e-4,
    )


def _simwhisper(**options: Any) -> Case:
    files = {"config": simwhisper.CONFIG, "checkpoint": simwhisper.CHECKPOINT}
    return Case(
        "simwhisper",
        files | options,
        clips=lambda: [simwhisper.golden()[f"{clip}.audio"] for clip in simwhisper.CLIPS],
    )


CASES = {
    "null": Case("null"),
    "pure": _by_config("pure", PURE),
    "pure frames": _by_config("pure", PURE_FRAMES),
    "pure subframes": _by_config("pure", PURE_FRAMES | {"backbone": "subframes"}),
    **{f"focalcodec {name}": _focalcodec(name) for name in focalcodec.CHECKPOINTS},
    **{
        f"focalcodec {name}": Case("focalcodec", {"config": config})
        for name, config in FOCALCODEC.items()
    },
    "dualcodec": _dualcodec(),
    "dualcodec keep_partial": _dualcodec(keep_partial=True),
    "simwhisper": _simwhisper(),
    "simwhisper keep_partial": _simwhisper(keep_partial=True),
    **{
        name: Case("transformers", {"config": config}, lambda books: {"num_codebooks": books})
        for name, config in TRANSFORMERS.items()
    },
    "plain, of the docs": Case("plain-80hz", registered=page.added),
    **{f"hasrd {name}": _by_config("hasrd", config) for name, config in HASRD.items()},
}


@cache
def loaded(case: str, *, masked: bool = False) -> Codec:
    """Return the codec as users get it on a CPU, or as it computes a batch on a GPU: masked."""
    if not masked:
        return CASES[case].load()
    codec = loaded(case)
    match codec:
        case PureCodec():
            return PureCodec(codec.network, codec.info, **ON_CPU, row_by_row=False)
        case FocalCodec():
            return FocalCodec(codec.network, codec.sizes, codec.info, **ON_CPU, row_by_row=False)
        case DualCodec():
            return DualCodec(codec.network, codec.semantic, codec.info, **ON_CPU, row_by_row=False)
        case HasrdCodec():
            return HasrdCodec(codec.network, codec.ssl, codec.info, **ON_CPU, row_by_row=False)
        case SimWhisperCodec():
            return SimWhisperCodec(codec.network, codec.info, **ON_CPU, row_by_row=False)
    if page.is_plain(codec):
        return type(codec)(codec.network, codec.info, **ON_CPU, row_by_row=False)
    return codec
