"""A network of transformers with weights: from a checkpoint, or random from a seed."""

from math import sqrt
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from speechmill.codecs.checkpoint import read_state_dict, refuse_misfits
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.nn.conv import fold_weight_norm
from speechmill.codecs.transformers_codecs.config import TransformersConfig

_CLASSES: dict[str, tuple[Any, Any]] = {
    "mimi": (transformers.MimiConfig, transformers.MimiModel),
    "encodec": (transformers.EncodecConfig, transformers.EncodecModel),
    "dac": (transformers.DacConfig, transformers.DacModel),
}
# Tried on speech: latents and what each codebook leaves over are about as long as codewords.
_CODEWORD_LENGTH = {"mimi": 0.2, "encodec": 0.1, "dac": 1.0}


def read_transformers(sizes: TransformersConfig, path: Path) -> nn.Module:
    """Return the network for inference; transformers maps the names that it used before."""
    _, model = _CLASSES[sizes.model_type]
    network, found = model.from_pretrained(
        None,
        config=_configuration(sizes),
        state_dict=read_state_dict(path),
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    refuse_misfits(
        str(path),
        missing=sorted(found["missing_keys"]),
        unexpected=sorted(found["unexpected_keys"]),
        misshapen=[f"{key} {tuple(a)} for {tuple(b)}" for key, a, b in found["mismatched_keys"]],
    )
    fold_weight_norm(network)
    return network  # type: ignore[no-any-return]


def allocate_transformers(sizes: TransformersConfig) -> Any:
    """Return the network as transformers builds it, which draws from torch's generator."""
    _, model = _CLASSES[sizes.model_type]
    return model(_configuration(sizes))


def _configuration(sizes: TransformersConfig) -> Any:
    config, _ = _CLASSES[sizes.model_type]
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in sizes.values}
    try:
        return config(**values)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise InvalidConfig(f"transformers takes no such {sizes.model_type}: {error}") from error


def untrained_transformers(sizes: TransformersConfig, seed: int) -> nn.Module:
    """Return a network of random weights that depends on nothing but `sizes` and `seed`.

    Codes follow the audio, because the encoder's convolutions pass on nothing constant in time
    and all codewords are equally long.
    """
    with torch.random.fork_rng(devices=[]):
        network = allocate_transformers(sizes)
    fold_weight_norm(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            _randomise(module, generator)
        for module in network.encoder.modules():
            if isinstance(module, nn.Conv1d) and module.kernel_size[0] > 1:
                module.weight -= module.weight.mean(-1, keepdim=True)
        for module in network.modules():
            _fill_codebook(module, _CODEWORD_LENGTH[sizes.model_type], generator)
    return network  # type: ignore[no-any-return]


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
        module.weight.normal_(std=1 / sqrt(_taps(module)), generator=generator)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.LSTM):
        bound = 1 / sqrt(module.hidden_size)
        for weight in module.parameters():
            weight.uniform_(-bound, bound, generator=generator)


def _taps(layer: nn.Linear | nn.Conv1d | nn.ConvTranspose1d) -> float:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    upsampling = layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 1
    return layer.in_channels * layer.kernel_size[0] / (layer.groups * upsampling)


def _fill_codebook(module: nn.Module, length: float, generator: torch.Generator) -> None:
    """Fill what the three call a codebook: Mimi a sum over uses, EnCodec a table, DAC a layer."""
    for name in ("embed_sum", "embed", "weight") if _is_codebook(module) else ():
        words_ND = getattr(module, name, None)
        if isinstance(words_ND, Tensor):
            words_ND.normal_(generator=generator)
            words_ND *= length / words_ND.norm(dim=-1, keepdim=True)
            return


def _is_codebook(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding) or type(module).__name__.endswith("EuclideanCodebook")
