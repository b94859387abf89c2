"""From files to networks for inference.

No checkpoint of HASRD was ever published: its names are ours. Those of the self-supervised model
are transformers', before and after PyTorch renamed the factors of weight norm.
"""

import re
from collections.abc import Mapping
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor

from speechmill.codecs.checkpoint import allocate, load_strict, read_state_dict
from speechmill.codecs.hasrd.config import HasrdConfig
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import Attention, FeedForward, SSLModel
from speechmill.codecs.nn.conv import fold_weight_norm, load_folded, scaled
from speechmill.codecs.nn.dac import ResidualUnit
from speechmill.codecs.nn.factorized import FactorizedQuantizer
from speechmill.codecs.nn.quantize import ResidualQuantizer
from speechmill.codecs.untrained import (
    best_projection,
    draw_codewords,
    draw_weights,
    make_subtractive,
)

_POSITIONS = "encoder.pos_conv_embed.conv."
_FACTORS = {
    f"{_POSITIONS}weight_g": "length",
    f"{_POSITIONS}weight_v": "direction",
    f"{_POSITIONS}parametrizations.weight.original0": "length",
    f"{_POSITIONS}parametrizations.weight.original1": "direction",
}
_FIRST_LAYER = "encoder.layers.0.attention.rel_attn_embed."
# Tried on speech: activations neither die nor explode, audio peaks near 0.5.
_BRANCH = 0.3
_AUDIO_GAIN = 0.1


def read_hasrd(config: HasrdConfig, path: Path) -> HasrdNetwork:
    """Return the network, from a checkpoint of training or of inference.

    Training keeps the two factors of every weight-normed weight; here they are multiplied.
    """
    state = read_state_dict(path)
    network = allocate_hasrd(config)
    load_folded(network, state, str(path))
    return network


def read_ssl(config: HasrdConfig, path: Path) -> SSLModel:
    """Return the layers that are used of a checkpoint that transformers wrote."""
    network = allocate_ssl(config)
    load_strict(network, renamed_ssl(read_state_dict(path), config), str(path))
    return network


def allocate_hasrd(config: HasrdConfig) -> HasrdNetwork:
    """Return a network for inference whose weights are yet to be filled in."""
    return allocate(lambda: HasrdNetwork(config))


def allocate_ssl(config: HasrdConfig) -> SSLModel:
    """Return a network for inference whose weights are yet to be filled in."""
    return allocate(lambda: SSLModel(config.ssl, config.semantic_layer))


def renamed_ssl(state: Mapping[str, Tensor], config: HasrdConfig) -> dict[str, Tensor]:
    """Return what the first layers need of transformers' `WavLMModel` or `HubertModel`."""
    ours, factors = {}, {}
    for key, value in state.items():
        layer = re.match(r"encoder\.layers\.(\d+)\.", key)
        if key == "masked_spec_embed" or (layer and int(layer[1]) >= config.semantic_layer):
            continue
        if config.ssl.do_stable_layer_norm and key.startswith("encoder.layer_norm."):
            continue  # behind the last layer
        if key in _FACTORS:
            factors[_FACTORS[key]] = value
        else:
            ours[key.replace(_FIRST_LAYER, "encoder.rel_attn_embed.")] = value
    if len(factors) == 2:
        ours[f"{_POSITIONS}weight"] = scaled(factors["direction"], factors["length"])
    return ours


def untrained_hasrd(config: HasrdConfig, seed: int) -> HasrdNetwork:
    """Return a network of random weights.

    Codewords are as long as the projection of a latent on the best of all directions.
    """
    network = allocate_hasrd(config)
    fold_weight_norm(network)
    generator = torch.Generator().manual_seed(seed)
    draw_weights(network, generator, centered=True)
    for module in network.modules():
        if isinstance(module, ResidualQuantizer):
            words_KND = module.codebooks_KND
            draw_codewords(words_KND, best_projection(words_KND.shape[1]), generator)
        elif isinstance(module, FactorizedQuantizer):
            make_subtractive(module, sqrt(module.codebook.embedding_dim))
        elif isinstance(module, ResidualUnit):
            module.conv2.conv.weight.mul_(_BRANCH)
    network.decoder.last.conv.weight.mul_(_AUDIO_GAIN)
    return network


def untrained_ssl(config: HasrdConfig, seed: int) -> SSLModel:
    """Return layers of random weights."""
    network = allocate_ssl(config)
    draw_weights(network, torch.Generator().manual_seed(seed), centered=True)
    for module in network.modules():
        if isinstance(module, Attention):
            module.out_proj.weight.mul_(_BRANCH)
        elif isinstance(module, FeedForward):
            module.output_dense.weight.mul_(_BRANCH)
    return network
