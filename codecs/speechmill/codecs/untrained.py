"""Draw the random weights of untrained codecs, from a configuration and a seed alone.

They make tests meaningful: activations neither die nor explode, and codes follow the audio.
Parameters that start as constants, such as norms and learned scales, keep these values.
"""

from collections.abc import Callable
from math import log, sqrt
from typing import Literal

import torch
from torch import Tensor, nn

from speechmill.codecs.nn.convnext import ConvNeXtBlock
from speechmill.codecs.nn.factorized import FactorizedQuantizer

Drawn = nn.Linear | nn.Conv1d | nn.ConvTranspose1d
_BLOCK_SCALE = 1 / 8  # of the output that a ConvNeXt block adds to its input


def fan_in(layer: Drawn) -> int:
    """Return how many products are summed in one output of the layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    upsampling = layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 1
    return layer.in_channels * layer.kernel_size[0] // (layer.groups * upsampling)


@torch.no_grad()
def draw_weights(
    network: nn.Module,
    generator: torch.Generator,
    *,
    gain: float = 1.0,
    centered: bool = False,
    embeddings: Literal["normal", "unit", "kept"] = "normal",
    fan_in: Callable[[Drawn], int] = fan_in,
) -> None:
    """Draw the weights of all layers, in the order of `network.modules()`.

    The outputs of a linear layer or convolution are `gain` times as large as its inputs. Centered
    weights sum to zero over the input channels, so they remove the channels' mean. Embeddings are
    drawn with variance 1 ("normal"), with a length near 1 ("unit"), or not at all ("kept").
    """
    for module in network.modules():
        if isinstance(module, Drawn):
            weight = module.weight
            weight.normal_(std=gain / sqrt(fan_in(module)), generator=generator)
            if centered and weight.shape[1] > 1:
                weight -= weight.mean(1, keepdim=True)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding) and embeddings != "kept":
            std = 1 / sqrt(module.embedding_dim) if embeddings == "unit" else 1.0
            module.weight.normal_(std=std, generator=generator)
        elif isinstance(module, nn.LSTM):
            bound = 1 / sqrt(module.hidden_size)
            for parameter in module.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, ConvNeXtBlock) and module.gamma is not None:
            module.gamma.fill_(_BLOCK_SCALE)


@torch.no_grad()
def draw_codewords(words_ND: Tensor, length: float, generator: torch.Generator) -> None:
    """Draw codewords of random direction and equal length."""
    words_ND.normal_(generator=generator)
    words_ND *= length / words_ND.norm(dim=-1, keepdim=True)


def best_projection(count: int) -> float:
    """Return the expected projection of a normal vector on the best of `count` directions."""
    return sqrt(2 * log(max(2, count)))


def remove_mean_over_time(conv: nn.Conv1d) -> None:
    """Make a convolution ignore the part of its input that is constant in time."""
    conv.weight -= conv.weight.mean(-1, keepdim=True)


def make_subtractive(quantizer: FactorizedQuantizer, length: float, gain: float = 1.0) -> None:
    """Make `decode` the transpose of the projection that is searched, and codewords equally long.

    Each stage of a residual quantizer then subtracts the part of its input that it coded. `gain` is
    the one with which the projection was drawn.
    """
    into: Tensor = quantizer.in_proj.weight
    into /= gain
    quantizer.out_proj.weight.copy_(into.transpose(0, 1))
    words_NC = quantizer.codebook.weight
    words_NC *= length / words_NC.norm(dim=-1, keepdim=True)
