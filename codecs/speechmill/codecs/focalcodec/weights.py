"""A network with weights: from a checkpoint of either published layout, or random from a seed.

Checkpoint history: the causal files have the names of the authors' version 0.0.2, which are ours.
The offline files were written by version 0.0.1: attention has three projections instead of one,
the two parts of a stage are numbered, and there are a norm and a mask that nothing uses.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from speechmill.codecs.checkpoint import allocate, load_strict, read_state_dict
from speechmill.codecs.focalcodec.config import FocalCodecConfig
from speechmill.codecs.focalcodec.focal import FocalModulation
from speechmill.codecs.focalcodec.model import FocalCodecNetwork, LinearHead
from speechmill.codecs.nn.wavlm.encoder import FeedForward, WavLMAttention
from speechmill.codecs.nn.wavlm.model import join_projections
from speechmill.codecs.untrained import Drawn, draw_weights, fan_in

_V001_UNUSED = {"encoder.encoder.norm.weight", "encoder.encoder.norm.bias", "quantizer.mask"}
_V001_STAGES = [
    (re.compile(r"^compressor\.layers\.(\d+)\.0\."), r"compressor.layers.\1.downscale."),
    (re.compile(r"^compressor\.layers\.(\d+)\.1\."), r"compressor.layers.\1.focal_block."),
    (re.compile(r"^decompressor\.layers\.(\d+)\.0\."), r"decompressor.layers.\1.focal_block."),
    (re.compile(r"^decompressor\.layers\.(\d+)\.1\."), r"decompressor.layers.\1.upscale."),
]
_BRANCH = 0.3  # of random weights: gain of residual branches and of WaveNeXt's output


def read_focalcodec(config: FocalCodecConfig, path: Path) -> FocalCodecNetwork:
    """Return the network for inference."""
    network = allocate(lambda: FocalCodecNetwork(config))
    load_strict(network, to_current_names(read_state_dict(path)), str(path))
    return network


def to_current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` under the names of version 0.0.2."""
    if not any(".q_proj." in key for key in state):
        return dict(state)
    return join_projections(
        {_renamed(k): value for k, value in state.items() if k not in _V001_UNUSED}
    )


def untrained_focalcodec(config: FocalCodecConfig, seed: int) -> FocalCodecNetwork:
    """Return a network of random weights."""
    network = allocate(lambda: FocalCodecNetwork(config))
    generator = torch.Generator().manual_seed(seed)
    draw_weights(network, generator, centered=True, fan_in=_fan_in)
    for module in network.modules():
        if isinstance(module, FeedForward | FocalModulation | WavLMAttention):
            module.out_proj.weight *= _BRANCH
        if isinstance(module, LinearHead):
            module.proj.weight *= _BRANCH
    return network


def _fan_in(layer: Drawn) -> int:
    """Ignore the stride of transposed convolutions: their outputs do not overlap."""
    return fan_in(layer) * (layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 1)


def _renamed(key: str) -> str:
    for pattern, replacement in _V001_STAGES:
        key = pattern.sub(replacement, key)
    return key
