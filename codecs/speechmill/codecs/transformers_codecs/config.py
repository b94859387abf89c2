"""Mimi, EnCodec and DAC: the keys of transformers' configurations that decide the codes' format.

They are read without transformers, which is needed only to load a codec.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, log2, prod
from typing import Any

from speechmill.codecs.config import check_type, did_you_mean, missing_columns
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.family import Card

_DEFAULTS: dict[str, dict[str, Any]] = {  # those of transformers' configuration classes
    "mimi": {
        "sampling_rate": 24_000,
        "upsampling_ratios": (8, 6, 5, 4),
        "frame_rate": 12.5,
        "codebook_size": 2048,
        "num_quantizers": 32,
        "num_semantic_quantizers": 1,
    },
    "encodec": {
        "sampling_rate": 24_000,
        "upsampling_ratios": (8, 5, 4, 2),
        "codebook_size": 1024,
        "target_bandwidths": (1.5, 3.0, 6.0, 12.0, 24.0),
    },
    "dac": {
        "sampling_rate": 16_000,
        "downsampling_ratios": (2, 4, 8, 8),
        "codebook_size": 1024,
        "n_codebooks": 9,
    },
}
_ABOUT_THE_FILE = {"architectures", "dtype", "torch_dtype", "transformers_version"}
_CODE = ("auto_map", "quantization_config", "kernel_config", "custom_pipelines")
_BUILT_IN = ("eager", "sdpa", None, True, False)  # computed by transformers itself
_ONLY_CHOICE = {"audio_channels": 1, "normalize": False, "chunk_length_s": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersConfig:
    """The format of the codes, and `values`, the complete configuration for transformers.

    The network has `held_codebooks`; encode returns codes of the first `num_codebooks`.
    """

    model_type: str
    sample_rate: int
    hop_length: int
    codebook_size: int
    held_codebooks: int
    semantic_codebooks: int
    num_codebooks: int
    missing_samples: int
    values: tuple[tuple[str, Any], ...]


def read_transformers_config(
    values: Mapping[str, Any], num_codebooks: int | None
) -> TransformersConfig:
    """Return the configuration in a `config.json`; `model_type` decides its keys."""
    model_type = str(values.get("model_type"))
    if model_type not in _DEFAULTS:
        near = did_you_mean(model_type, list(_DEFAULTS))
        raise InvalidConfig(f"model_type is {model_type!r}{near}; known: {', '.join(_DEFAULTS)}")
    for key, choice in _ONLY_CHOICE.items():
        if values.get(key, choice) != choice:
            raise InvalidConfig(f"{key} is {values[key]!r}, only {choice!r} is supported")
    _refuse_code(values)
    own = {key: value for key, value in values.items() if key not in _ABOUT_THE_FILE}
    full = {**_DEFAULTS[model_type], **own}
    for key, default in _DEFAULTS[model_type].items():
        value = full[key]
        check_type(key, tuple(value) if isinstance(value, list) else value, default)
    sizes = _READERS[model_type](full)
    books = min(8, sizes.held_codebooks) if num_codebooks is None else num_codebooks
    least = max(1, sizes.semantic_codebooks)
    if not least <= books <= sizes.held_codebooks:
        raise InvalidConfig(f"num_codebooks is {books}, must be {least} to {sizes.held_codebooks}")
    return replace(sizes, num_codebooks=books)


def _refuse_code(values: Mapping[str, Any]) -> None:
    """Refuse what makes transformers fetch and run code that a `config.json` names."""
    for key, value in values.items():
        if "_implementation" in key and value not in _BUILT_IN:
            raise InvalidConfig(f"{key} is {value!r}, only eager and sdpa are supported")
        if key in _CODE and value:
            raise InvalidConfig(f"{key} is not supported; leave it out of the configuration")


def _mimi(full: dict[str, Any]) -> TransformersConfig:
    hop = prod(full["upsampling_ratios"])
    stride = int(ceil(full["sampling_rate"] / hop) / full["frame_rate"])
    return _sizes(full, hop * stride, full["num_quantizers"], full["num_semantic_quantizers"])


def _encodec(full: dict[str, Any]) -> TransformersConfig:
    hop = prod(full["upsampling_ratios"])
    rate = ceil(full["sampling_rate"] / hop) * ceil(log2(full["codebook_size"]))
    return _sizes(full, hop, int(1000 * full["target_bandwidths"][-1] // rate))


def _dac(full: dict[str, Any]) -> TransformersConfig:
    ratios = tuple(full["downsampling_ratios"])
    sizes = _sizes(full, prod(ratios), full["n_codebooks"])
    return replace(sizes, missing_samples=missing_columns(ratios[::-1]))


_READERS = {"mimi": _mimi, "encodec": _encodec, "dac": _dac}


def _sizes(full: dict[str, Any], hop: int, books: int, semantic: int = 0) -> TransformersConfig:
    frozen = {key: tuple(v) if isinstance(v, list) else v for key, v in full.items()}
    return TransformersConfig(
        model_type=full["model_type"],
        sample_rate=full["sampling_rate"],
        hop_length=hop,
        codebook_size=full["codebook_size"],
        held_codebooks=books,
        semantic_codebooks=semantic,
        num_codebooks=books,
        missing_samples=0,
        values=tuple(sorted(frozen.items())),
    )


_DAC = {"model_type": "dac", "hidden_size": 1024, "codebook_dim": 8}
VARIANTS: dict[str, dict[str, Any]] = {
    "mimi": {"model_type": "mimi"},
    "encodec-24khz": {"model_type": "encodec"},
    "dac-16khz": {**_DAC, "downsampling_ratios": (2, 4, 5, 8), "n_codebooks": 12},
    "dac-24khz": {
        **_DAC,
        "sampling_rate": 24_000,
        "downsampling_ratios": (2, 4, 5, 8),
        "n_codebooks": 32,
    },
    "dac-44khz": {**_DAC, "sampling_rate": 44_100, "downsampling_ratios": (2, 4, 8, 8)},
}

WEIGHTS = "model.safetensors"
CARDS = {
    name: Card(
        parameters=parameters,
        paper=f"arXiv {paper}",
        licence=licence,
        files={"checkpoint": f"hf://{repository}/{WEIGHTS}"},
    )
    for name, parameters, repository, paper, licence in (
        ("mimi", 96_085_825, "kyutai/mimi", "2410.00037", "CC-BY-4.0"),
        ("encodec-24khz", 19_041_121, "facebook/encodec_24khz", "2210.13438", "unknown"),
        ("dac-16khz", 74_141_697, "descript/dac_16khz", "2306.06546", "MIT"),
        ("dac-24khz", 74_653_857, "descript/dac_24khz", "2306.06546", "MIT"),
        ("dac-44khz", 76_620_777, "descript/dac_44khz", "2306.06546", "MIT"),
    )
}
