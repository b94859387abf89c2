"""From files to networks for inference.

No checkpoint of HASRD was ever published: its names are ours. Those of the self-supervised model
are transformers', before and after PyTorch renamed the factors of weight norm.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from speechmill.codecs.checkpoint import allocate, load_strict, read_state_dict
from speechmill.codecs.hasrd.config import HasrdConfig
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import SSLModel
from speechmill.codecs.nn.conv import load_folded, scaled

_POSITIONS = "encoder.pos_conv_embed.conv."
_FACTORS = {
    f"{_POSITIONS}weight_g": "length",
    f"{_POSITIONS}weight_v": "direction",
    f"{_POSITIONS}parametrizations.weight.original0": "length",
    f"{_POSITIONS}parametrizations.weight.original1": "direction",
}
_FIRST_LAYER = "encoder.layers.0.attention.rel_attn_embed."


def read_network(config: HasrdConfig, path: Path) -> HasrdNetwork:
    """Return the network, from a checkpoint of training or of inference.

    Training keeps the two factors of every weight-normed weight; here they are multiplied.
    """
    state = read_state_dict(path)
    network = allocate_network(config)
    load_folded(network, state, str(path))
    return network


def read_ssl(config: HasrdConfig, path: Path) -> SSLModel:
    """Return the layers that are used of a checkpoint that transformers wrote."""
    network = allocate_ssl(config)
    load_strict(network, renamed_ssl(read_state_dict(path), config), str(path))
    return network


def allocate_network(config: HasrdConfig) -> HasrdNetwork:
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
