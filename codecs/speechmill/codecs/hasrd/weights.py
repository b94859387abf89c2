"""Networks with weights: from files, or random from a seed.

Nobody published a checkpoint of HASRD, so its names are ours.
"""

from math import sqrt
from pathlib import Path

import torch

from speechmill.codecs.checkpoint import allocate, fold_weight_norm, load_folded, read_state_dict
from speechmill.codecs.hasrd.config import HasrdConfig
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import FeatureModel, feature_model
from speechmill.codecs.nn.dac import DacResidualUnit
from speechmill.codecs.nn.factorized import FactorizedQuantizer
from speechmill.codecs.nn.quantize import ResidualQuantizer
from speechmill.codecs.nn.wavlm.encoder import FeedForward, WavLMAttention
from speechmill.codecs.nn.whisper.layers import WhisperLayer
from speechmill.codecs.untrained import (
    best_projection,
    draw_codewords,
    draw_weights,
    make_subtractive,
)

# Measured on speech: activations neither die nor explode, audio peaks near 0.5.
_BRANCH = 0.3
_AUDIO_GAIN = 0.1


def read_hasrd(config: HasrdConfig, path: Path) -> HasrdNetwork:
    """Return the network for inference, from a checkpoint of training or of inference."""
    state = read_state_dict(path)
    network = allocate(lambda: HasrdNetwork(config))
    load_folded(network, state, str(path))
    return network


def read_ssl(config: HasrdConfig, path: Path) -> FeatureModel:
    """Return the first layers of a checkpoint in transformers' format."""
    network = allocate(lambda: feature_model(config.ssl, config.semantic_layer))
    network.load_transformers(read_state_dict(path), str(path))
    return network


def untrained_hasrd(config: HasrdConfig, seed: int) -> HasrdNetwork:
    """Return a network of random weights.

    Codewords are as long as the projection of a latent on the best of all directions.
    """
    network = allocate(lambda: HasrdNetwork(config))
    fold_weight_norm(network)
    generator = torch.Generator().manual_seed(seed)
    draw_weights(network, generator, centered=True)
    for module in network.modules():
        if isinstance(module, ResidualQuantizer):
            words_KND = module.codebooks_KND
            draw_codewords(words_KND, best_projection(words_KND.shape[1]), generator)
        elif isinstance(module, FactorizedQuantizer):
            make_subtractive(module, sqrt(module.codebook.embedding_dim))
        elif isinstance(module, DacResidualUnit):
            module.conv2.conv.weight.mul_(_BRANCH)
    network.decoder.last.conv.weight.mul_(_AUDIO_GAIN)
    return network


def untrained_ssl(config: HasrdConfig, seed: int) -> FeatureModel:
    """Return layers of random weights."""
    network = allocate(lambda: feature_model(config.ssl, config.semantic_layer))
    draw_weights(network, torch.Generator().manual_seed(seed), centered=True)
    for module in network.modules():
        if isinstance(module, WavLMAttention | FeedForward):
            module.out_proj.weight.mul_(_BRANCH)
        if isinstance(module, WhisperLayer):
            module.self_attn.out_proj.weight.mul_(_BRANCH)
            module.fc2.weight.mul_(_BRANCH)
        if isinstance(module, WavLMAttention):
            # untrained codecs are defined by weights that are drawn for keys, values and queries,
            # in this order; the layer's order is queries, keys, values
            weight = module.qkv_proj.weight
            weight.copy_(weight.roll(len(weight) // 3, 0))
    return network
