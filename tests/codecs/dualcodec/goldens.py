"""Outputs of the authors' code, for small networks of random weights."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from speechmill.codecs import load_codec
from speechmill.codecs.dualcodec.codec import DualCodec

DATA = Path(__file__).parents[2] / "data" / "dualcodec"
SMALL = DATA / "e2e_patched"  # the whole path, from the waveform
CONSTRUCTED = DATA / "ctor_1024"  # the released widths, from the pooled features
CLIPS = ("s4", "s1p1")
WEIGHTS = {
    "config": SMALL / "config.json",
    "checkpoint": SMALL / "state_dict.safetensors",
    "semantic_checkpoint": SMALL / "w2vbert_state_dict.safetensors",
    "semantic_stats": SMALL / "w2v_mean_var.safetensors",
}


def load_small(**options: Any) -> DualCodec:
    codec = load_codec("dualcodec", **{**WEIGHTS, **options})
    assert isinstance(codec, DualCodec)
    return codec


@cache
def codec(*, masked: bool = False, keep_partial: bool = False) -> DualCodec:
    loaded = load_small(keep_partial=keep_partial)
    if not masked:
        return loaded
    return DualCodec(
        loaded.network,
        loaded.semantic,
        loaded.info,
        device=torch.device("cpu"),
        precision="fp32",
        row_by_row=False,
    )


@cache
def golden(folder: Path = SMALL) -> dict[str, Tensor]:
    return load_file(folder / "io.safetensors")


def golden_codes(clip: str, folder: Path = SMALL) -> Tensor:
    """Return codes_KN."""
    io = golden(folder)
    return torch.cat([io[f"{clip}.semantic_codes"], io[f"{clip}.acoustic_codes_nq4"]])
