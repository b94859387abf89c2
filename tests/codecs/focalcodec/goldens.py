"""Outputs of the authors' code, for small networks of random weights."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from speechmill.codecs import load_codec
from speechmill.codecs.focalcodec.codec import FocalCodec

DATA = Path(__file__).parents[2] / "data" / "focalcodec"
CLIPS = ("s4", "s1p3", "n160", "n1281")
CHECKPOINTS = {
    "offline_50hz": DATA / "offline_50hz" / "state_dict.ckpt_v001.safetensors",
    "causal": DATA / "causal" / "state_dict.safetensors",
}


@cache
def codec(name: str, *, row_by_row: bool | None = None) -> FocalCodec:
    loaded = load_codec(
        "focalcodec", config=DATA / name / "config.json", checkpoint=CHECKPOINTS[name]
    )
    assert isinstance(loaded, FocalCodec)
    if row_by_row is None:
        return loaded
    return FocalCodec(
        loaded.network,
        loaded.sizes,
        loaded.info,
        device=torch.device("cpu"),
        precision="fp32",
        row_by_row=row_by_row,
    )


@cache
def golden(name: str) -> dict[str, Tensor]:
    return load_file(DATA / name / "io.safetensors")


def keys(variant: str) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = json.loads((DATA / "keys" / f"{variant}.json").read_text())
    return shapes
