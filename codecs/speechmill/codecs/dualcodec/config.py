"""DualCodec (arXiv 2505.13000): the sizes of the networks and the variants that have a name.

Field names are those of the published configurations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import Any

from speechmill.codecs.config import did_you_mean, missing_columns, override, read_section
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.family import LONGEST_ATTENDED, Card

SEMANTIC_RATE = 16_000  # Hz, of the input of w2v-BERT 2.0
FBANK_WINDOW = 400  # samples at SEMANTIC_RATE
FBANK_HOP = 160
FBANK_STACK = 2  # fbank frames per frame of w2v-BERT

_TRAINING_ONLY = {"quantizer_dropout"}
_ONLY_CHOICE = {  # other keys of a w2v-BERT configuration, and the supported values
    "hidden_act": ("swish", "silu"),
    "position_embeddings_type": ("relative_key",),
    "sampling_rate": (SEMANTIC_RATE,),
    "stride": (FBANK_STACK,),
}


def _check_sizes(config: "DualCodecConfig | W2VBertConfig") -> None:
    for each in fields(config):
        value = getattr(config, each.name)
        sizes = value if isinstance(value, tuple) else (value,)
        numbers = [n for n in sizes if isinstance(n, int | float) and not isinstance(n, bool)]
        if any(number <= 0 for number in numbers):
            raise InvalidConfig(f"{each.name} is {value}, must be positive")


def _check_equal(config: "DualCodecConfig", name: str, other: int, other_name: str) -> None:
    if getattr(config, name) != other:
        raise InvalidConfig(
            f"{name} is {getattr(config, name)}, must equal {other_name}, which is {other}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class W2VBertConfig:
    """w2v-BERT 2.0 (facebook/w2v-bert-2.0) up to the layer whose features DualCodec uses."""

    hidden_size: int = 1024
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    feature_projection_input_dim: int = 160
    layer_norm_eps: float = 1e-5
    left_max_position_embeddings: int = 64
    right_max_position_embeddings: int = 8
    conv_depthwise_kernel_size: int = 31
    hidden_state_index: int = 17  # number of layers: the authors' index 0 is the input

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.hidden_size % self.num_attention_heads:
            raise InvalidConfig(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if self.feature_projection_input_dim % FBANK_STACK:
            raise InvalidConfig(
                f"feature_projection_input_dim is {self.feature_projection_input_dim}, must be "
                f"{FBANK_STACK} frames of equally many mel bins"
            )

    @property
    def num_mel_bins(self) -> int:
        return self.feature_projection_input_dim // FBANK_STACK


@dataclass(frozen=True, kw_only=True, slots=True)
class DualCodecConfig:
    """The codec's sizes; the defaults are those of the released 25 Hz codec.

    `n_codebooks` counts only the acoustic codebooks; the number in a checkpoint replaces it.
    """

    sample_rate: int = 24_000
    encoder_dim: int = 64
    encoder_rates: tuple[int, ...] = (4, 5, 6, 8)
    latent_dim: int = 1024
    decoder_dim: int = 1536
    decoder_rates: tuple[int, ...] = (8, 6, 5, 4)
    n_codebooks: int = 11
    codebook_size: int = 1024
    codebook_dim: int = 8
    semantic_codebook_size: int = 16_384
    semantic_codebook_dim: int = 8
    semantic_downsample_factor: int = 2
    convnext_dim: int = 768
    convnext_layers: int = 4
    convnext_intermediate_dim: int = 2048
    is_causal: bool = True  # only the ConvNeXt blocks
    semantic_in_dim: int = 1024
    semantic_out_dim: int = 1024
    w2vbert: W2VBertConfig = field(default_factory=W2VBertConfig)

    def __post_init__(self) -> None:
        _check_sizes(self)
        hop = self.sample_rate * FBANK_HOP * FBANK_STACK * self.semantic_downsample_factor
        for name, rates in (("encoder", self.encoder_rates), ("decoder", self.decoder_rates)):
            if prod(rates) * SEMANTIC_RATE != hop:
                raise InvalidConfig(
                    f"{name}_rates {list(rates)} give {prod(rates)} samples per frame, the "
                    f"semantic stream {hop / SEMANTIC_RATE:g}; they must be equal"
                )
        _check_equal(self, "semantic_out_dim", self.latent_dim, "latent_dim")
        _check_equal(self, "semantic_in_dim", self.w2vbert.hidden_size, "w2vbert.hidden_size")

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return prod(self.encoder_rates)

    @property
    def missing_samples(self) -> int:
        """As in `CodecInfo`: 4 for the released decoders, whose rate 5 is odd."""
        return missing_columns(self.decoder_rates)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.semantic_codebook_size, *[self.codebook_size] * self.n_codebooks)


_25HZ = DualCodecConfig()
_12HZ = DualCodecConfig(
    encoder_dim=32,
    encoder_rates=(4, 5, 6, 8, 2),
    decoder_rates=(2, 8, 6, 5, 4),
    n_codebooks=7,
    codebook_size=4096,
    semantic_downsample_factor=4,
)

VARIANTS = {
    "dualcodec-12hz": _12HZ,
    "dualcodec-25hz": _25HZ,
    # the number of codebooks is inferred from the size of its file
    "dualcodec-12hz-noise-robust": replace(_12HZ, n_codebooks=16),
    "dualcodec-25hz-noise-robust": _25HZ,
}

SEMANTIC_CHECKPOINT = "hf://facebook/w2v-bert-2.0/model.safetensors"
SEMANTIC_STATS = "hf://amphion/dualcodec/w2vbert2_mean_var_stats_emilia.pt"


def _card(parameters: int, checkpoint: str) -> Card:
    files = {
        "checkpoint": f"hf://amphion/{checkpoint}",
        "semantic_checkpoint": SEMANTIC_CHECKPOINT,
        "semantic_stats": SEMANTIC_STATS,
    }
    return Card(
        parameters=parameters, paper="arXiv 2505.13000", files=files, longest_clips=LONGEST_ATTENDED
    )


CARDS = {  # without digests: the files could not be fetched
    name: _card(parameters, file)
    for name, parameters, file in (
        ("dualcodec-12hz", 495_212_433, "dualcodec/dualcodec_12hz_16384_4096.safetensors"),
        ("dualcodec-25hz", 513_486_209, "dualcodec/dualcodec_25hz_16384_1024.safetensors"),
        (
            "dualcodec-12hz-noise-robust",
            495_664_089,
            "dualcodec-tts/dualcodec_12hzv1_noise_robust.safetensors",
        ),
        (
            "dualcodec-25hz-noise-robust",
            513_486_209,
            "dualcodec-tts/dualcodec_25hzv1_noise_robust.safetensors",
        ),
    )
}


def read_dualcodec_config(
    base: DualCodecConfig, values: Mapping[str, Any] | None
) -> DualCodecConfig:
    """Return `base` with the values of a published configuration's sections.

    "dualcodec" and "patched" hold the codec's sizes. "w2vbert" and "feature_extractor" are in
    transformers' format; only the keys that change the codes are read.
    """
    sections = dict(values or {})
    semantic = _semantic(base.w2vbert, sections)
    own: dict[str, Any] = {}
    for name in ("dualcodec", "patched"):
        own |= read_section(name, sections.pop(name, {}))
    if sections:
        known = ["dualcodec", "patched", "w2vbert", "feature_extractor", "hidden_state_index"]
        unknown = next(iter(sections))
        raise InvalidConfig(
            f"unknown section {unknown!r}{did_you_mean(unknown, known)}; known: {known}"
        )
    own = {key: value for key, value in own.items() if key not in _TRAINING_ONLY}
    if "semantic_in_dim" not in own:
        own["semantic_in_dim"] = semantic.hidden_size
    if "w2vbert" in own:
        raise InvalidConfig("'w2vbert' must be a separate section, not part of 'dualcodec'")
    return override(base, {**own, "w2vbert": semantic})


def _semantic(base: W2VBertConfig, sections: dict[str, Any]) -> W2VBertConfig:
    network, extractor = (
        read_section(name, sections.pop(name, {})) for name in ("w2vbert", "feature_extractor")
    )
    for key, choices in _ONLY_CHOICE.items():
        value = {**network, **extractor}.get(key, choices[0])
        if value not in choices:
            raise InvalidConfig(f"{key} is {value!r}, only {choices[0]!r} is supported")
    own = {f.name: network[f.name] for f in fields(base) if f.name in network}
    if "hidden_state_index" in sections:
        own["hidden_state_index"] = sections.pop("hidden_state_index")
    semantic = override(base, own)
    layers = network.get("num_hidden_layers", semantic.hidden_state_index)
    if semantic.hidden_state_index > layers:
        raise InvalidConfig(
            f"hidden_state_index is {semantic.hidden_state_index}, w2vbert has {layers} layers"
        )
    bins = extractor.get("num_mel_bins", semantic.num_mel_bins)
    if bins != semantic.num_mel_bins:
        raise InvalidConfig(
            f"num_mel_bins is {bins}, feature_projection_input_dim asks for {semantic.num_mel_bins}"
        )
    return semantic
