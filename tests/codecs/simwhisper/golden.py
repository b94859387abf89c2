"""The small reference model, and the authors' outputs for it."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from speechmill.codecs import load_codec
from speechmill.codecs.simwhisper.codec import SimWhisperCodec

FOLDER = Path(__file__).parents[2] / "data" / "simwhisper"
CONFIG = FOLDER / "config.json"
CHECKPOINT = FOLDER / "state_dict.safetensors"
CLIPS = ["s4", "s1p1", "n1281", "n1279", "n1000"]
CPU = torch.device("cpu")


@cache
def golden() -> dict[str, Tensor]:
    return load_file(FOLDER / "io.safetensors")


@cache
def golden_codec(*, masked: bool = False, **options: Any) -> SimWhisperCodec:
    """Return the reference model, which computes its windows one by one or in one masked batch."""
    codec = load_codec("simwhisper", config=CONFIG, checkpoint=CHECKPOINT, **options)
    assert isinstance(codec, SimWhisperCodec)
    return SimWhisperCodec(
        codec.network, codec.info, device=CPU, precision="fp32", row_by_row=not masked
    )


def published_keys() -> dict[str, list[int]]:
    keys: dict[str, list[int]] = json.loads((FOLDER / "keys.json").read_text())
    return keys
