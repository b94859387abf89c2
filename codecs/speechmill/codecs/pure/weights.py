"""A network with weights: from a checkpoint, or random from a seed."""

from math import log, sqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from speechmill.codecs.checkpoint import allocate, read_state_dict
from speechmill.codecs.nn.conv import fold_weight_norm, load_folded
from speechmill.codecs.nn.convnext import ConvNeXtBlock
from speechmill.codecs.pure.config import PureConfig
from speechmill.codecs.pure.model import Encoder, PureNetwork

_GAIN = 0.85  # tried on speech: latents of norm near 1, decoded audio of peak near 0.3
_LATENT_NORM = 0.5
_BRANCH = 1 / 8  # of what a ConvNeXt block adds


def read_pure(config: PureConfig, path: Path) -> PureNetwork:
    """Return the network for inference, from a checkpoint of training or of inference.

    Training keeps the two factors of every weight-normed weight; here they are multiplied.
    """
    state = read_state_dict(path)
    network = allocate(lambda: PureNetwork(config))
    load_folded(network, state, str(path))
    return network


def untrained_pure(config: PureConfig, seed: int) -> PureNetwork:
    """Return a network of random weights that depends on nothing but `config` and `seed`.

    It has the traits that make tests mean something: activations neither die nor explode, and
    codes follow the audio, because what is constant in time is kept out of the latent and all
    codewords are equally long.
    """
    network = allocate(lambda: PureNetwork(config))
    fold_weight_norm(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            _randomise(module, generator)
        if isinstance(network.encoder, Encoder):
            last: Tensor = network.encoder.last.conv.weight
            last -= last.mean(-1, keepdim=True)
        quantizer = network.quantizer
        _randomise_codebooks(quantizer.codebooks_KND, generator)
        if quantizer.num_searched:
            quantizer.searched_SND.copy_(quantizer.codebooks_KND[: quantizer.num_searched])
    return network


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        taps = module.in_channels * module.kernel_size[0] // _upsampling(module)
        module.weight.normal_(std=_GAIN / sqrt(taps), generator=generator)
        module.bias.zero_()  # type: ignore[union-attr]
    elif isinstance(module, nn.Linear):
        module.weight.normal_(std=_GAIN / sqrt(module.in_features), generator=generator)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.LayerNorm):
        module.weight.fill_(1)
        module.bias.zero_()
    elif isinstance(module, ConvNeXtBlock) and module.gamma is not None:
        module.gamma.fill_(_BRANCH)
    elif isinstance(module, nn.LSTM):
        for weight in module.parameters():
            bound = 1 / sqrt(module.hidden_size)
            weight.uniform_(-bound, bound, generator=generator)


def _upsampling(conv: nn.Conv1d | nn.ConvTranspose1d) -> int:
    return conv.stride[0] if isinstance(conv, nn.ConvTranspose1d) else 1


def _randomise_codebooks(codebooks_KND: Tensor, generator: torch.Generator) -> None:
    """Fill in codewords as long as the projection of a latent on the best of N directions."""
    size, dim = codebooks_KND.shape[1:]
    length = _LATENT_NORM * sqrt(2 * log(max(2, size)) / dim)
    codebooks_KND.normal_(generator=generator)
    codebooks_KND.mul_(length / codebooks_KND.norm(dim=-1, keepdim=True))
