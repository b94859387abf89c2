"""Random weights that make tests mean something, from a fixed seed."""

from math import log, sqrt

import torch
from torch import Tensor, nn

from speechmill.codecs.hasrd.config import HasrdConfig
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import Attention, FeedForward, SSLModel, TimeNorm
from speechmill.codecs.hasrd.weights import allocate_network, allocate_ssl
from speechmill.codecs.nn.conv import fold_weight_norm
from speechmill.codecs.nn.dac import ResidualUnit
from speechmill.codecs.nn.factorized import FactorizedQuantizer
from speechmill.codecs.nn.quantize import ResidualQuantizer
from speechmill.codecs.nn.snake import Snake

# Tried on speech: activations neither die nor explode, audio peaks near 0.5.
_BRANCH = 0.3
_AUDIO_GAIN = 0.1


def random_network(config: HasrdConfig, seed: int) -> HasrdNetwork:
    """Return a network whose codes follow the audio and depend on `config` and `seed` alone."""
    network = allocate_network(config)
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


def random_ssl(config: HasrdConfig, seed: int) -> SSLModel:
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
