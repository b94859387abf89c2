"""Random weights that make tests mean something, from a fixed seed."""

from math import sqrt

import torch
from torch import Tensor, nn

from speechmill.codecs.dualcodec.config import DualCodecConfig
from speechmill.codecs.dualcodec.model import DualCodecNetwork
from speechmill.codecs.dualcodec.w2vbert import W2VBert
from speechmill.codecs.dualcodec.weights import allocate_network, allocate_w2vbert
from speechmill.codecs.nn.conv import fold_weight_norm
from speechmill.codecs.nn.factorized import FactorizedQuantizer
from speechmill.codecs.nn.snake import Snake

# Tried on speech: activations neither die nor explode, frames differ, both latents have a
# deviation near 1 and a codeword is as long as what it stands for.
_GAIN = 0.8
_W2VBERT_GAIN = 0.5
_ACOUSTIC_GAIN = 10.0
_AUDIO_GAIN = 0.15
_CODEWORD_NORM = 2.0


def random_network(config: DualCodecConfig, seed: int) -> DualCodecNetwork:
    """Return a network whose codes follow the audio and depend on `config` and `seed` alone.

    What is constant in time is kept out of the acoustic latent, and each stage of the quantizer
    takes from the residual what it codes.
    """
    network = allocate_network(config)
    fold_weight_norm(network)
    _fill(network, _GAIN, torch.Generator().manual_seed(seed))
    for module in network.modules():
        if isinstance(module, FactorizedQuantizer):
            _make_subtractive(module)
    last: Tensor = network.acoustic_encoder.last.conv.weight
    last -= last.mean(-1, keepdim=True)
    last *= _ACOUSTIC_GAIN
    network.acoustic_decoder.last.conv.weight.mul_(_AUDIO_GAIN)
    return network


def random_w2vbert(config: DualCodecConfig, seed: int) -> W2VBert:
    """Return layers whose output follows the audio and depends on `config` and `seed` alone."""
    network = allocate_w2vbert(config)
    _fill(network, _W2VBERT_GAIN, torch.Generator().manual_seed(seed))
    return network


def _fill(network: nn.Module, gain: float, generator: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
            module.weight.normal_(std=gain / sqrt(_taps(module)), generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
            module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(std=1 / sqrt(module.embedding_dim), generator=generator)
        elif isinstance(module, Snake):
            module.alpha.fill_(1)


def _taps(layer: nn.Linear | nn.Conv1d | nn.ConvTranspose1d) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    upsampling = layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 1
    return layer.in_channels * layer.kernel_size[0] // (layer.groups * upsampling)


def _make_subtractive(quantizer: FactorizedQuantizer) -> None:
    """Let a codeword stand for the part of the input that the search saw."""
    into: Tensor = quantizer.in_proj.weight
    into /= _GAIN
    quantizer.out_proj.weight.copy_(into.transpose(0, 1))
    words_NC = quantizer.codebook.weight
    words_NC *= _CODEWORD_NORM / words_NC.norm(dim=-1, keepdim=True)
