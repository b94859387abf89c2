"""A network with weights: from a checkpoint of either published layout, or random from a seed.

Checkpoint history: the causal files have the names of the authors' version 0.0.2, which are ours.
The offline files were written by version 0.0.1: attention has three projections in the place of
one, stages number their two parts, and there are a norm and a mask that nothing uses.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from speechmill.codecs.checkpoint import allocate, load_strict, read_state_dict
from speechmill.codecs.focalcodec.config import FocalCodecConfig
from speechmill.codecs.focalcodec.model import FocalCodecNetwork, LinearHead
from speechmill.codecs.focalcodec.wavlm import Attention, WavLM
from speechmill.codecs.nn.conv import scaled
from speechmill.codecs.nn.focal import FeedForward, FocalModulation
from speechmill.codecs.untrained import Drawn, draw_weights, fan_in

_V001_UNUSED = {"encoder.encoder.norm.weight", "encoder.encoder.norm.bias", "quantizer.mask"}
_V001_STAGES = [
    (re.compile(r"^compressor\.layers\.(\d+)\.0\."), r"compressor.layers.\1.downscale."),
    (re.compile(r"^compressor\.layers\.(\d+)\.1\."), r"compressor.layers.\1.focal_block."),
    (re.compile(r"^decompressor\.layers\.(\d+)\.0\."), r"decompressor.layers.\1.focal_block."),
    (re.compile(r"^decompressor\.layers\.(\d+)\.1\."), r"decompressor.layers.\1.upscale."),
]
_POSITIONS = "encoder.positional_embedding.conv."
_WAVLM_UNUSED = {"masked_spec_embed", "encoder.layer_norm.weight", "encoder.layer_norm.bias"}
_WAVLM_FACTORS = {
    "encoder.pos_conv_embed.conv.weight_g": "length",
    "encoder.pos_conv_embed.conv.weight_v": "direction",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "length",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "direction",
}
_WAVLM_NAMES = (  # transformers', and ours
    (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"feature_extractor.layers.\1.norm."),
    (r"^feature_extractor\.conv_layers\.", "feature_extractor.layers."),
    (r"^feature_projection\.layer_norm\.", "norm."),
    (r"^feature_projection\.projection\.", "feature_proj."),
    (r"^encoder\.pos_conv_embed\.conv\.", _POSITIONS),
    (r"^encoder\.layers\.0\.attention\.rel_attn_embed\.", "encoder.relative_embedding."),
    (r"(\.\d+)\.layer_norm\.", r"\1.attention_norm."),
    (r"\.final_layer_norm\.", ".feed_forward_norm."),
    (r"\.intermediate_dense\.", ".in_proj."),
    (r"\.output_dense\.", ".out_proj."),
)
_BRANCH = 0.3  # of random weights: what a residual branch adds to its stream, and WaveNeXt's level


def read_focalcodec(config: FocalCodecConfig, path: Path) -> FocalCodecNetwork:
    """Return the network for inference."""
    network = allocate(lambda: FocalCodecNetwork(config))
    load_strict(network, current(read_state_dict(path)), str(path))
    return network


def current(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` under the names of version 0.0.2."""
    if not any(".q_proj." in key for key in state):
        return dict(state)
    return _joined({_renamed(k): value for k, value in state.items() if k not in _V001_UNUSED})


def load_wavlm(encoder: WavLM, path: Path) -> None:
    """Fill in the first layers of a WavLM that transformers wrote."""
    load_strict(
        encoder, renamed_wavlm(read_state_dict(path), len(encoder.encoder.layers)), str(path)
    )


def renamed_wavlm(state: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Return what the first layers need of transformers' `WavLMModel`, under our names."""
    ours: dict[str, Tensor] = {}
    factors: dict[str, Tensor] = {}
    for key, value in state.items():
        layer = re.match(r"encoder\.layers\.(\d+)\.", key)
        if key in _WAVLM_UNUSED or (layer and int(layer[1]) >= num_layers):
            continue
        if key in _WAVLM_FACTORS:
            factors[_WAVLM_FACTORS[key]] = value
            continue
        for pattern, replacement in _WAVLM_NAMES:
            key = re.sub(pattern, replacement, key)
        ours[key] = value.view(1, -1, 1, 1) if key.endswith("gru_rel_pos_const") else value
    if len(factors) == 2:
        ours[f"{_POSITIONS}weight"] = scaled(factors["direction"], factors["length"])
    return _joined(ours)


def untrained_focalcodec(config: FocalCodecConfig, seed: int) -> FocalCodecNetwork:
    """Return a network of random weights."""
    network = allocate(lambda: FocalCodecNetwork(config))
    generator = torch.Generator().manual_seed(seed)
    draw_weights(network, generator, centered=True, fan_in=_fan_in)
    for module in network.modules():
        if isinstance(module, FeedForward | FocalModulation | Attention):
            module.out_proj.weight *= _BRANCH
        if isinstance(module, LinearHead):
            module.proj.weight *= _BRANCH
    return network


def _fan_in(layer: Drawn) -> int:
    """Ignore the stride: a transposed convolution of the decompressor has no overlap."""
    return fan_in(layer) * (layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 1)


def _joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state whose three projections of each attention are one."""
    for key in [key for key in state if ".q_proj." in key]:
        parts = [state.pop(key.replace(".q_proj.", f".{name}_proj."), None) for name in "qkv"]
        present = [part for part in parts if part is not None]
        state[key.replace(".q_proj.", ".qkv_proj.")] = torch.cat(present)
    return state


def _renamed(key: str) -> str:
    for pattern, replacement in _V001_STAGES:
        key = pattern.sub(replacement, key)
    return key
