"""A network with weights: from the authors' checkpoint, or random from a seed."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from speechmill.codecs.checkpoint import allocate, load_strict, merge_weight_norm, read_state_dict
from speechmill.codecs.errors import CheckpointError
from speechmill.codecs.nn.whisper.layers import encoder_weights
from speechmill.codecs.simwhisper.config import SimWhisperConfig
from speechmill.codecs.simwhisper.model import AcousticEncoder, SimWhisperNetwork
from speechmill.codecs.untrained import draw_weights

_CHECKPOINT_KEY = "model"  # of the weights in the authors' files
_DERIVED = re.compile(
    r"acoustic_(en|de)coder\.positional_embedding"
    r"|(down|up)sample\.res_blocks\.\d+\.block\.[02]\.(upsample|downsample\.lowpass)\.filter"
    r"|quantizer\.fsqs\.\d+\.(dim_base_index|num_levels)"
    r"|vocos\.head\.istft\.window"
)
_RENAMED = (
    (r"\.res_blocks\.(\d+)\.block\.0\.act\.", r".units.\1.act1.log_"),
    (r"\.res_blocks\.(\d+)\.block\.1\.", r".units.\1.conv1."),
    (r"\.res_blocks\.(\d+)\.block\.2\.act\.", r".units.\1.act2.log_"),
    (r"\.res_blocks\.(\d+)\.block\.3\.", r".units.\1.conv2."),
    (r"^vocos\.backbone\.embed\.", "vocos.backbone.embedding."),
    (r"^vocos\.backbone\.norm\.", "vocos.backbone.input_norm."),
    (r"^vocos\.backbone\.convnext\.", "vocos.backbone.layers."),
    (r"^vocos\.backbone\.final_layer_norm\.", "vocos.backbone.output_norm."),
    (r"^vocos\.head\.out\.", "vocos.head.proj."),
)
_UNIT_GAIN = 0.3  # measured on speech: the latents' standard deviation is near 1
_LATENT_GAIN = 6.0


def read_simwhisper(config: SimWhisperConfig, path: Path) -> SimWhisperNetwork:
    """Return the network for inference, from the authors' file or from a training run."""
    network = allocate(lambda: SimWhisperNetwork(config))
    load_simwhisper(network, config, path)
    return network


def load_simwhisper(network: SimWhisperNetwork, config: SimWhisperConfig, path: Path) -> None:
    """Load the authors' file, or that of a training run, into a network."""
    state = read_state_dict(path, _CHECKPOINT_KEY)
    _check_levels(config, state, path)
    load_strict(network, from_published(state), str(path))


def load_whisper(encoder: AcousticEncoder, path: Path) -> None:
    """Load transformers' Whisper, or its encoder alone, into the encoder."""
    state = encoder_weights(read_state_dict(path))
    state.pop("embed_positions.weight", None)
    load_strict(encoder, state, str(path))


def untrained_simwhisper(config: SimWhisperConfig, seed: int) -> SimWhisperNetwork:
    """Return a network of random weights; latents ignore signals that are constant in time."""
    network = allocate(lambda: SimWhisperNetwork(config))
    draw_weights(network, torch.Generator().manual_seed(seed))
    stacked_ODS = network.downsample.in_proj.weight.view(config.hidden_dim, -1, config.stack)
    stacked_ODS -= stacked_ODS.mean(-1, keepdim=True)
    for name, parameter in network.downsample.named_parameters():
        if name.endswith("conv2.weight"):
            parameter.mul_(_UNIT_GAIN)
    network.downsample.to_latent.weight.mul_(_LATENT_GAIN)
    return network


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the authors' weights under our names.

    Factors of weight norm are multiplied; tables that follow from the configuration are left out.
    """
    ours = {}
    for key, value in state.items():
        if _DERIVED.fullmatch(key) or key.endswith(".weight_v"):
            continue
        direction = state.get(f"{key.removesuffix('_g')}_v") if key.endswith(".weight_g") else None
        if direction is not None:
            key, value = key.removesuffix("_g"), merge_weight_norm(direction, value)
        ours[_renamed(key)] = value
    return ours


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def _check_levels(config: SimWhisperConfig, state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse other levels: the weights would fit, but every code would be wrong."""
    found = state.get("quantizer.fsqs.0.num_levels")
    if found is not None and found.flatten().tolist() != list(config.levels):
        raise CheckpointError(
            f"{str(path)!r} was trained with the levels {found.flatten().tolist()}, "
            f"not {list(config.levels)}; give its own config"
        )
