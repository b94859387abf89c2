"""Networks with weights: from published files, whose names are mapped to ours, or random."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from speechmill.codecs.checkpoint import allocate, fold_weight_norm, load_strict, read_state_dict
from speechmill.codecs.dualcodec.config import DualCodecConfig
from speechmill.codecs.dualcodec.model import DualCodecNetwork
from speechmill.codecs.dualcodec.semantic import SemanticFeatures
from speechmill.codecs.dualcodec.w2vbert import W2VBert
from speechmill.codecs.errors import CheckpointError
from speechmill.codecs.nn.factorized import FactorizedQuantizer
from speechmill.codecs.untrained import draw_weights, make_subtractive, remove_mean_over_time

_ACOUSTIC_CODEBOOK = re.compile(r"dac\.quantizer\.quantizers\.\d+\.codebook\.weight")
_UNIT_PARTS = ("snake1", "conv1.conv", "snake2", "conv2.conv")
_WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}

# Measured on speech: activations neither die nor explode, frames differ, both latents have a
# deviation near 1 and a codeword is as long as the vectors that it represents.
_GAIN = 0.8
_W2VBERT_GAIN = 0.5
_ACOUSTIC_GAIN = 10.0
_AUDIO_GAIN = 0.15
_CODEWORD_NORM = 2.0


def read_dualcodec(config: DualCodecConfig, path: Path) -> DualCodecNetwork:
    """Return the network of a published checkpoint."""
    network = allocate(lambda: DualCodecNetwork(config))
    load_strict(network, renamed(read_state_dict(path), config), str(path))
    fold_weight_norm(network)
    return network


def read_semantic(
    config: DualCodecConfig, w2vbert: Path, stats: Path, *, keep_partial: bool
) -> SemanticFeatures:
    """Return the features of a w2v-BERT in transformers' format, with their statistics."""
    network = allocate(lambda: W2VBert(config.w2vbert))
    load_w2vbert(network, config, w2vbert)
    return SemanticFeatures(config, network, *read_stats(config, stats), keep_partial=keep_partial)


def read_stats(config: DualCodecConfig, path: Path) -> tuple[Tensor, Tensor]:
    """Return mean_D and var_D of the self-supervised features."""
    state, expected = read_state_dict(path), (config.semantic_in_dim,)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    if shapes != {"mean": expected, "var": expected}:
        raise CheckpointError(f"{str(path)!r} holds {shapes}, not 'mean' and 'var' of {expected}")
    return state["mean"], state["var"]


def count_acoustic_codebooks(path: Path) -> int:
    """Return the number of acoustic codebooks in a published checkpoint; reads no weights."""
    keys: Iterable[str]
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                keys = list(file.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"cannot read {str(path)!r} as weights: {error}") from error
    else:
        keys = read_state_dict(path)
    return sum(_ACOUSTIC_CODEBOOK.fullmatch(key) is not None for key in keys)


def renamed(state: Mapping[str, Tensor], config: DualCodecConfig) -> dict[str, Tensor]:
    """Return a published state under our names; other names stay as they are."""
    modules = _modules(config)
    return {_our_name(key, modules): value for key, value in state.items()}


def published(state: Mapping[str, Tensor], config: DualCodecConfig) -> dict[str, Tensor]:
    """Return a trainable network's state under the authors' names: the inverse of `renamed`."""
    modules = {ours: theirs for theirs, ours in _modules(config).items()}
    return {_their_name(key, modules): value for key, value in state.items()}


def load_trainable(network: DualCodecNetwork, config: DualCodecConfig, path: Path) -> None:
    """Load a checkpoint into a network that keeps both factors of its weights."""
    state = {name: value.float() for name, value in read_state_dict(path).items()}
    load_strict(network, renamed(state, config), str(path))


def load_w2vbert(network: nn.Module, config: DualCodecConfig, path: Path) -> None:
    """Load the first layers of a checkpoint in transformers' format."""
    state = read_state_dict(path)
    load_strict(network, renamed_w2vbert(state, config.w2vbert.hidden_state_index), str(path))


def renamed_w2vbert(state: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Return the weights of the first layers of transformers' `Wav2Vec2BertModel`, renamed."""
    ours = {}
    for key, value in state.items():
        layer = re.match(r"encoder\.layers\.(\d+)\.", key)
        if key == "masked_spec_embed" or key.startswith("adapter."):
            continue
        if layer and int(layer[1]) >= num_layers:
            continue
        is_pointwise = ".pointwise_conv" in key and value.dim() == 3
        ours[key.removeprefix("encoder.")] = value.squeeze(-1) if is_pointwise else value
    return ours


def _our_name(key: str, modules: Mapping[str, str]) -> str:
    found = _within(key, modules)
    if found is None:
        return key
    module, leaf = found
    stem, _, last = leaf.rpartition(".")
    return f"{module}{stem}.{_WEIGHT_NORM.get(last, last)}"


def _their_name(key: str, modules: Mapping[str, str]) -> str:
    found = _within(key, modules)
    assert found is not None, f"{key} was never published"
    module, leaf = found
    for theirs, ours in _WEIGHT_NORM.items():
        leaf = leaf.replace(f".{ours}", f".{theirs}")
    return f"{module}{leaf}"


def _within(key: str, modules: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the other name of the innermost known module, and the rest of the key."""
    prefix, leaf = key, ""
    while prefix not in modules:
        prefix, _, last = prefix.rpartition(".")
        leaf = f".{last}{leaf}"
        if not prefix:
            return None
    return modules[prefix], leaf


def _modules(config: DualCodecConfig) -> dict[str, str]:
    """Return the published name of each module and ours."""
    blocks, books = config.convnext_layers, config.n_codebooks
    ours = {
        "convnext_encoder.0": "semantic_encoder.first",
        f"convnext_decoder.{blocks}": "semantic_decoder.last",
        "semantic_vq.quantizers.0": "semantic_quantizer",
    }
    for i in range(blocks):
        ours[f"convnext_encoder.{i + 1}"] = f"semantic_encoder.blocks.{i}"
        ours[f"convnext_decoder.{i}"] = f"semantic_decoder.blocks.{i}"
    for i in range(books):
        ours[f"dac.quantizer.quantizers.{i}"] = f"acoustic_quantizer.stages.{i}"
    ends = _chain("dac.encoder.block", "acoustic_encoder", len(config.encoder_rates))
    ends |= _chain("dac.decoder.model", "acoustic_decoder", len(config.decoder_rates))
    for i in range(len(config.encoder_rates)):
        theirs, stage = f"dac.encoder.block.{i + 1}.block", f"acoustic_encoder.stages.{i}"
        ours |= _units(theirs, stage, 0)
        ours |= {f"{theirs}.3": f"{stage}.snake", f"{theirs}.4": f"{stage}.down.conv"}
    for i in range(len(config.decoder_rates)):
        theirs, stage = f"dac.decoder.model.{i + 1}.block", f"acoustic_decoder.stages.{i}"
        ours |= {f"{theirs}.0": f"{stage}.snake", f"{theirs}.1": f"{stage}.up"}
        ours |= _units(theirs, stage, 2)
    return ours | ends


def _chain(theirs: str, ours: str, stages: int) -> dict[str, str]:
    """Return the names of the layers before and after a chain of stages."""
    return {
        f"{theirs}.0": f"{ours}.first.conv",
        f"{theirs}.{stages + 1}": f"{ours}.snake",
        f"{theirs}.{stages + 2}": f"{ours}.last.conv",
    }


def _units(theirs: str, ours: str, first: int) -> dict[str, str]:
    """Return the names within a stage's three residual units, which follow each other."""
    return {
        f"{theirs}.{first + unit}.block.{place}": f"{ours}.units.{unit}.{part}"
        for unit in range(3)
        for place, part in enumerate(_UNIT_PARTS)
    }


def untrained_dualcodec(config: DualCodecConfig, seed: int) -> DualCodecNetwork:
    """Return a network of random weights.

    The acoustic latent ignores signals that are constant in time, and each stage of the quantizer
    subtracts the part of the residual that it codes.
    """
    network = allocate(lambda: DualCodecNetwork(config))
    fold_weight_norm(network)
    generator = torch.Generator().manual_seed(seed)
    draw_weights(network, generator, gain=_GAIN, embeddings="unit")
    for module in network.modules():
        if isinstance(module, FactorizedQuantizer):
            make_subtractive(module, _CODEWORD_NORM, _GAIN)
    last = network.acoustic_encoder.last.conv
    remove_mean_over_time(last)
    last.weight.mul_(_ACOUSTIC_GAIN)
    network.acoustic_decoder.last.conv.weight.mul_(_AUDIO_GAIN)
    return network


def untrained_w2vbert(config: DualCodecConfig, seed: int) -> W2VBert:
    """Return layers of random weights."""
    network = allocate(lambda: W2VBert(config.w2vbert))
    generator = torch.Generator().manual_seed(seed)
    draw_weights(network, generator, gain=_W2VBERT_GAIN, embeddings="unit")
    return network


def untrained_semantic(
    config: DualCodecConfig, seed: int, *, keep_partial: bool
) -> SemanticFeatures:
    """Return the features of random layers, standardised with mean 0 and variance 1."""
    width = config.semantic_in_dim
    stats = torch.zeros(width), torch.ones(width)
    network = untrained_w2vbert(config, seed)
    return SemanticFeatures(config, network, *stats, keep_partial=keep_partial)
