"""A network with weights: from a checkpoint, or random from a seed."""

from math import sqrt
from pathlib import Path

import torch
from torch import nn

from speechmill.codecs.checkpoint import allocate, fold_weight_norm, load_folded, read_state_dict
from speechmill.codecs.pure.config import PureConfig
from speechmill.codecs.pure.model import PureNetwork, SeanetEncoder
from speechmill.codecs.untrained import (
    Drawn,
    best_projection,
    draw_codewords,
    draw_weights,
    fan_in,
    remove_mean_over_time,
)

_GAIN = 0.85  # measured on speech: latents of norm near 1, decoded audio of peak near 0.3
_LATENT_NORM = 0.5


def read_pure(config: PureConfig, path: Path) -> PureNetwork:
    """Return the network for inference, from a checkpoint of training or of inference."""
    state = read_state_dict(path)
    network = allocate(lambda: PureNetwork(config))
    load_folded(network, state, str(path))
    return network


def untrained_pure(config: PureConfig, seed: int) -> PureNetwork:
    """Return a network of random weights.

    Codewords are as long as the projection of a latent on the best of all directions.
    """
    network = allocate(lambda: PureNetwork(config))
    fold_weight_norm(network)
    generator = torch.Generator().manual_seed(seed)
    draw_weights(network, generator, gain=_GAIN, fan_in=_fan_in)
    if isinstance(network.encoder, SeanetEncoder):
        remove_mean_over_time(network.encoder.last.conv)
    quantizer = network.quantizer
    size, dim = quantizer.codebooks_KND.shape[1:]
    draw_codewords(
        quantizer.codebooks_KND, _LATENT_NORM * best_projection(size) / sqrt(dim), generator
    )
    if quantizer.num_searched:
        quantizer.searched_SND.copy_(quantizer.codebooks_KND[: quantizer.num_searched])
    return network


def _fan_in(layer: Drawn) -> int:
    """Count all channels of a depthwise convolution: untrained codecs were defined so."""
    return fan_in(layer) * (1 if isinstance(layer, nn.Linear) else layer.groups)
