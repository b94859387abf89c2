"""From files to networks for inference.

No checkpoint of HASRD was ever published: its names are ours. Those of the self-supervised model
are transformers', before and after PyTorch renamed the factors of weight norm.
"""

import re
from collections.abc import Mapping
from math import log, sqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from speechmill.codecs.checkpoint import allocate, load_strict, read_state_dict
from speechmill.codecs.hasrd.config import HasrdConfig
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import Attention, FeedForward, SSLModel, TimeNorm
from speechmill.codecs.nn.conv import fold_weight_norm, load_folded, scaled
from speechmill.codecs.nn.dac import ResidualUnit
from speechmill.codecs.nn.factorized import FactorizedQuantizer
from speechmill.codecs.nn.quantize import ResidualQuantizer
from speechmill.codecs.nn.snake import Snake

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
    """Return a network whose codes follow the audio and depend on `config` and `seed` alone."""
    network = allocate_hasrd(config)
    fold_weight_norm(network)
    generator = torch.Generator().manual_seed(seed)
    _fill(network, generator)
    for module in network.modules():
        if isinstance(module, ResidualQuantizer):
            _fill_codebooks(module.codebooks_KND, generator)
        elif isinstance(module, FactorizedQuantizer):
            _make_subtractive(module)
        elif isinstance(module, ResidualUnit):
            module.conv2.conv.weight.mul_(_BRANCH)
    if config.acoustic_source == "weighted":
        network.layer_logits.zero_()
    network.decoder.last.conv.weight.mul_(_AUDIO_GAIN)
    return network


def untrained_ssl(config: HasrdConfig, seed: int) -> SSLModel:
    """Return layers whose output follows the audio and depends on `config` and `seed` alone."""
    network = allocate_ssl(config)
    _fill(network, torch.Generator().manual_seed(seed))
    for module in network.modules():
        if isinstance(module, Attention):
            module.out_proj.weight.mul_(_BRANCH)
            if config.ssl.model_type == "wavlm":
                module.gru_rel_pos_const.fill_(1)
        elif isinstance(module, FeedForward):
            module.output_dense.weight.mul_(_BRANCH)
    return network


def _fill(network: nn.Module, generator: torch.Generator) -> None:
    """Fill in weights that pass on no mean over channels: it would be the same in every frame."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
            weight = module.weight
            inputs = _taps(module)
            weight.normal_(std=1 / sqrt(inputs), generator=generator)
            if weight.shape[1] > 1:
                weight -= weight.mean(1, keepdim=True)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm | TimeNorm):
            module.weight.fill_(1)
            module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(generator=generator)
        elif isinstance(module, Snake):
            module.alpha.fill_(1)


def _taps(layer: nn.Linear | nn.Conv1d | nn.ConvTranspose1d) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    upsampling = layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 1
    return layer.in_channels * layer.kernel_size[0] // (layer.groups * upsampling)


def _fill_codebooks(codebooks_KND: Tensor, generator: torch.Generator) -> None:
    """Fill in codewords as long as a latent's projection on the best of N directions."""
    size = codebooks_KND.shape[1]
    codebooks_KND.normal_(generator=generator)
    codebooks_KND *= sqrt(2 * log(max(2, size))) / codebooks_KND.norm(dim=-1, keepdim=True)


def _make_subtractive(quantizer: FactorizedQuantizer) -> None:
    """Let a codeword stand for the part of the input that the search saw."""
    quantizer.out_proj.weight.copy_(quantizer.in_proj.weight.transpose(0, 1))
    words_NC = quantizer.codebook.weight
    words_NC *= sqrt(words_NC.shape[1]) / words_NC.norm(dim=-1, keepdim=True)
