"""SimWhisper-Codec (arXiv 2510.20504): the network's sizes and the variants that have a name."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from speechmill.codecs.config import did_you_mean, override, read_section
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.family import UNPUBLISHED, Card
from speechmill.codecs.nn.whisper.sizes import MEL_HOP, SAMPLE_RATE, STRIDE, WINDOW_SAMPLES

STEP_SAMPLES = 20 * SAMPLE_RATE  # the part of a window whose output is kept


@dataclass(frozen=True, kw_only=True, slots=True)
class SimWhisperConfig:
    """The network's sizes; the defaults are the released model's."""

    num_mels: int = 80
    mel_n_fft: int = 400
    dim: int = 768
    encoder_layers: int = 12
    encoder_heads: int = 12
    encoder_ffn: int = 3072
    stack: int = 4  # encoder frames per token
    hidden_dim: int = 512
    latent_dim: int = 32
    num_groups: int = 8
    levels: tuple[int, ...] = (8, 7, 6, 6)
    fsq_eps: float = 1e-3
    decoder_layers: int = 12
    decoder_heads: int = 12
    decoder_ffn: int = 3072
    vocos_dim: int = 512
    vocos_ffn: int = 4096
    vocos_layers: int = 24
    vocos_n_fft: int = 640

    def __post_init__(self) -> None:
        if self.latent_dim != self.num_groups * len(self.levels):
            raise InvalidConfig(
                f"latent_dim is {self.latent_dim}, must be num_groups={self.num_groups} "
                f"times the {len(self.levels)} levels of a group"
            )
        if min(self.levels) < 2:
            raise InvalidConfig(f"num_levels_per_group is {self.levels}, each must be at least 2")
        for heads in (self.encoder_heads, self.decoder_heads):
            if heads < 1 or self.dim % heads:
                raise InvalidConfig(f"d_model {self.dim} does not divide into {heads} heads")
        if self.stack < 1 or STEP_SAMPLES % self.hop_length:
            raise InvalidConfig(f"stack_factor {self.stack} does not divide 20 s into whole frames")

    @property
    def hop_length(self) -> int:
        """Samples per token."""
        return MEL_HOP * STRIDE * self.stack

    @property
    def codebook_size(self) -> int:
        """Codes of one group."""
        return prod(self.levels)


VARIANTS = {
    "simwhisper-16k": SimWhisperConfig(),  # behind Whisper small
    # Ours, behind smaller encoders: the tokens have the same form and bit rate.
    "simwhisper-16k-base": SimWhisperConfig(
        dim=512,
        encoder_layers=6,
        encoder_heads=8,
        encoder_ffn=2048,
        hidden_dim=384,
        decoder_layers=4,
        decoder_heads=8,
        decoder_ffn=2048,
        vocos_dim=512,
        vocos_ffn=1536,
        vocos_layers=8,
    ),
    "simwhisper-16k-tiny": SimWhisperConfig(
        dim=384,
        encoder_layers=4,
        encoder_heads=6,
        encoder_ffn=1536,
        hidden_dim=256,
        decoder_layers=2,
        decoder_heads=6,
        decoder_ffn=1536,
        vocos_dim=256,
        vocos_ffn=768,
        vocos_layers=6,
    ),
}
_PAPER = "arXiv 2510.20504"
CARDS = {
    "simwhisper-16k": Card(
        parameters=291_315_186,
        paper=_PAPER,
        files={
            "checkpoint": "hf://ZhangXinWhut/SimWhisper_Codec/SimWhisperCodec.pt"
            "#sha256=eadb9840af449d39513a2b826e5513af65ead1b1b88083c91fd471237ea90dc7"
        },
    ),
    "simwhisper-16k-base": Card(parameters=55_295_986, paper=_PAPER, licence=UNPUBLISHED),
    "simwhisper-16k-tiny": Card(parameters=18_368_114, paper=_PAPER, licence=UNPUBLISHED),
}

_KEYS = {
    "feature_extractor": {"feature_size": "num_mels", "n_fft": "mel_n_fft"},
    "acoustic_encoder": {
        "num_mel_bins": "num_mels",
        "d_model": "dim",
        "encoder_layers": "encoder_layers",
        "encoder_attention_heads": "encoder_heads",
        "encoder_ffn_dim": "encoder_ffn",
    },
    "downsample": {
        "in_dim": "dim",
        "latent_dim": "latent_dim",
        "stack_factor": "stack",
        "hidden_dim": "hidden_dim",
    },
    "quantizer": {
        "num_groups": "num_groups",
        "num_levels_per_group": "levels",
        "eps": "fsq_eps",
    },
    "upsample": {
        "latent_dim": "latent_dim",
        "out_dim": "dim",
        "stack_factor": "stack",
        "hidden_dim": "hidden_dim",
    },
    "acoustic_decoder": {
        "num_mel_bins": "num_mels",
        "d_model": "dim",
        "decoder_layers": "decoder_layers",
        "decoder_attention_heads": "decoder_heads",
        "decoder_ffn_dim": "decoder_ffn",
    },
    "vocos": {
        "input_channels": "num_mels",
        "dim": "vocos_dim",
        "intermediate_dim": "vocos_ffn",
        "num_layers": "vocos_layers",
        "n_fft": "vocos_n_fft",
    },
}
_WHISPER = {
    "sampling_rate": SAMPLE_RATE,
    "hop_length": MEL_HOP,
    "stride_size": STRIDE,
    "kernel_size": 3,
    "scale_embedding": False,
    "max_audio_seconds": 30,
}
_FIXED: dict[str, dict[str, Any]] = {
    "feature_extractor": {
        "chunk_length": 30,
        "sampling_rate": SAMPLE_RATE,
        "hop_length": MEL_HOP,
        "n_samples": WINDOW_SAMPLES,
        "nb_max_frames": WINDOW_SAMPLES // MEL_HOP,
        "padding_side": "right",
        "padding_value": 0.0,
    },
    "acoustic_encoder": {**_WHISPER, "is_acoustic": True},
    "acoustic_decoder": {**_WHISPER, "activation_function": "gelu"},
    "vocos": {"hop_size": MEL_HOP, "padding": "same"},
}
_IGNORED = {
    "feature_extractor": ("return_attention_mask",),
    "acoustic_encoder": ("freeze", "whisper_model_path", "init_from_whisper"),
}
_RATES = ("encoder_downsample_rate", "decoder_upsample_rate")
_FIXED_AT_TOP = {
    "input_sample_rate": SAMPLE_RATE,
    "output_sample_rate": SAMPLE_RATE,
    "mel_hop_length": MEL_HOP,
}


def read_published(
    published: Mapping[str, Any], base: SimWhisperConfig | None = None
) -> SimWhisperConfig:
    """Return the sizes in the authors' `generator_params`; missing keys are those of `base`.

    Raises `InvalidConfig` for unknown keys and for values that this network does not support.
    """
    params = read_section("generator_params", published.get("generator_params", published))
    rates = {key: params.pop(key) for key in _RATES if key in params}
    _check_fixed("generator_params", params, _FIXED_AT_TOP)
    sizes: dict[str, Any] = {}
    for section, values in params.items():
        if section in _FIXED_AT_TOP:
            continue
        if section not in _KEYS:
            known = [*_KEYS, *_RATES, *_FIXED_AT_TOP]
            raise InvalidConfig(
                f"unknown key {section!r}{did_you_mean(section, known)}; known: {known}"
            )
        _add_section(section, read_section(section, values), sizes)
    config = override(base or SimWhisperConfig(), sizes)
    _check_fixed("generator_params", rates, dict.fromkeys(_RATES, config.hop_length))
    return config


def _add_section(section: str, values: Mapping[str, Any], sizes: dict[str, Any]) -> None:
    """Add a section's sizes to `sizes`; if two sections name the same size, they must agree."""
    fixed = _FIXED.get(section, {})
    known = [*_KEYS[section], *fixed, *_IGNORED.get(section, ())]
    _check_fixed(section, values, fixed)
    for key, value in values.items():
        if key not in known:
            raise InvalidConfig(
                f"unknown key {section}.{key}{did_you_mean(key, known)}; known: {known}"
            )
        ours = _KEYS[section].get(key)
        if ours is None:
            continue
        if sizes.setdefault(ours, value) != value:
            raise InvalidConfig(f"{section}.{key} is {value!r}, but {sizes[ours]!r} elsewhere")


def _check_fixed(section: str, values: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for key, expected in fixed.items():
        if key in values and values[key] != expected:
            raise InvalidConfig(
                f"{section}.{key} is {values[key]!r}, only {expected!r} is supported"
            )
