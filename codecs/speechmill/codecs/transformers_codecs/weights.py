"""A network of transformers with weights: from a checkpoint, or random from a seed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from speechmill.codecs.checkpoint import fold_weight_norm, read_state_dict, refuse_misfits
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.transformers_codecs.config import TransformersConfig
from speechmill.codecs.untrained import draw_codewords, draw_weights, remove_mean_over_time

_CLASSES: dict[str, tuple[Any, Any]] = {
    "mimi": (transformers.MimiConfig, transformers.MimiModel),
    "encodec": (transformers.EncodecConfig, transformers.EncodecModel),
    "dac": (transformers.DacConfig, transformers.DacModel),
}
# Measured on speech: latents and residuals are about as long as codewords.
_CODEWORD_LENGTH = {"mimi": 0.2, "encodec": 0.1, "dac": 1.0}


def read_transformers(sizes: TransformersConfig, path: Path) -> nn.Module:
    """Return the network for inference; transformers renames the weights of its older versions."""
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
    """Return the network as transformers initialises it, from torch's global generator."""
    _, model = _CLASSES[sizes.model_type]
    return model(_configuration(sizes))


def _configuration(sizes: TransformersConfig) -> Any:
    config, _ = _CLASSES[sizes.model_type]
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in sizes.values}
    try:
        return config(**values)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise InvalidConfig(f"transformers refuses this {sizes.model_type}: {error}") from error


def untrained_transformers(sizes: TransformersConfig, seed: int) -> nn.Module:
    """Return a network of random weights; the encoder ignores constant signals."""
    with torch.random.fork_rng(devices=[]):
        network = allocate_transformers(sizes).requires_grad_(False)
    fold_weight_norm(network)
    generator = torch.Generator().manual_seed(seed)
    draw_weights(network, generator, embeddings="kept")
    for module in network.encoder.modules():
        if isinstance(module, nn.Conv1d) and module.kernel_size[0] > 1:
            remove_mean_over_time(module)
    for words_ND in _codebooks(network):
        draw_codewords(words_ND, _CODEWORD_LENGTH[sizes.model_type], generator)
    return network  # type: ignore[no-any-return]


def _codebooks(network: nn.Module) -> Iterator[Tensor]:
    """Yield the codewords: in Mimi a sum over their uses, in EnCodec a table, in DAC a layer."""
    for module in network.modules():
        is_codebook = type(module).__name__.endswith("EuclideanCodebook")
        if is_codebook or isinstance(module, nn.Embedding):
            candidates = (getattr(module, name, None) for name in ("embed_sum", "embed", "weight"))
            yield next(words_ND for words_ND in candidates if isinstance(words_ND, Tensor))
