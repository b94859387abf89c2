"""HASRD (arXiv 2506.00843): sizes and variants; every assumption about the paper is a key.

The paper's full text could not be read. Its abstract states a semantic codebook over
self-supervised features, acoustic codebooks over the residual, and half of SpeechTokenizer's
4 kbit/s; the rest is assumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from speechmill.codecs.config import override, read_section, receptive_field
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.family import LONGEST_ATTENDED, UNPUBLISHED, Card
from speechmill.codecs.nn.whisper.sizes import MEL_HOP, STRIDE

SAMPLE_RATE = 16_000


def _check_choice(key: str, value: str, *choices: str) -> None:
    if value not in choices:
        raise InvalidConfig(f"{key} is {value!r}, must be one of {', '.join(choices)}")


def _check_count(key: str, value: int, last: int) -> None:
    if not 1 <= value <= last:
        raise InvalidConfig(f"{key} is {value}, must be 1 to {last}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SSLConfig:
    """WavLM or HuBERT, named as in transformers' `config.json`; the defaults are WavLM Large's.

    `do_normalize` is a key of its `preprocessor_config.json`.
    """

    model_type: Literal["wavlm", "hubert"] = "wavlm"
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: Literal["layer", "group"] = "layer"
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_attention_heads: int = 16
    num_hidden_layers: int = 24
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    num_buckets: int = 320
    max_bucket_distance: int = 800
    layer_norm_eps: float = 1e-5
    do_stable_layer_norm: bool = True
    do_normalize: bool = True

    def __post_init__(self) -> None:
        _check_choice("model_type", self.model_type, "wavlm", "hubert", "whisper")
        _check_choice("feat_extract_norm", self.feat_extract_norm, "layer", "group")
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise InvalidConfig("conv_dim, conv_kernel and conv_stride must be equally long")
        for divisor in (self.num_attention_heads, self.num_conv_pos_embedding_groups):
            if self.hidden_size % divisor:
                raise InvalidConfig(
                    f"hidden_size {self.hidden_size} is not a multiple of {divisor}"
                )

    @property
    def hop_length(self) -> int:
        """Samples per feature frame."""
        return prod(self.conv_stride)

    @property
    def overlap(self) -> int:
        """Samples beyond its hop that a frame depends on."""
        return receptive_field(self.conv_kernel, self.conv_stride) - self.hop_length


@dataclass(frozen=True, kw_only=True, slots=True)
class WhisperConfig:
    """Whisper's encoder, named as in transformers' `config.json`; the defaults are Whisper base's.

    It was trained to recognize words instead of by itself; HASRD uses both kinds in the same way.
    """

    model_type: Literal["whisper"] = "whisper"
    num_mel_bins: int = 80
    d_model: int = 512
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048

    def __post_init__(self) -> None:
        if self.d_model % 2 or self.d_model % self.encoder_attention_heads:
            raise InvalidConfig(
                f"d_model {self.d_model} is odd or not a multiple of "
                f"{self.encoder_attention_heads} heads"
            )

    @property
    def hidden_size(self) -> int:
        return self.d_model

    @property
    def num_hidden_layers(self) -> int:
        return self.encoder_layers

    @property
    def hop_length(self) -> int:
        """Samples per feature frame."""
        return MEL_HOP * STRIDE


@dataclass(frozen=True, kw_only=True, slots=True)
class HasrdConfig:
    """All defaults are assumed.

    The semantic codebook has `semantic_codebook_size` frozen k-means centroids of the features of
    `semantic_layer`, the tap; later layers are not computed. A frame is the mean of `pool_factor`
    features. The acoustic codebooks quantize the difference between the semantic code and a learned
    mixture of all layers up to the tap ("weighted"), the tap itself ("same"), or the output of a
    waveform encoder ("conv"). They are searched in `dim` dimensions ("euclidean") or by angle in
    `codebook_dim` ("factorized"). A checkpoint holds `num_acoustic` of them; encode returns the
    first `num_codebooks` of all. `keep_partial` pads a clip's last frame with zeros instead of
    dropping it. `semantic_sha256` is the digest of the only semantic checkpoint that fits the
    centroids.
    """

    ssl: SSLConfig | WhisperConfig = SSLConfig()
    semantic_layer: int = 21
    semantic_codebook_size: int = 1024
    semantic_sha256: str | None = None
    pool_factor: int = 1
    keep_partial: bool = True
    acoustic_source: Literal["weighted", "same", "conv"] = "weighted"
    acoustic_quantizer: Literal["euclidean", "factorized"] = "euclidean"
    num_acoustic: int = 3
    codebook_size: int = 1024
    codebook_dim: int = 8
    num_codebooks: int = 4
    dim: int = 512
    encoder_dim: int = 64
    encoder_rates: tuple[int, ...] = (2, 4, 5, 8)
    decoder_dim: int = 1536
    decoder_rates: tuple[int, ...] = (8, 5, 4, 2)

    def __post_init__(self) -> None:
        _check_choice("acoustic_source", self.acoustic_source, "weighted", "same", "conv")
        _check_choice("acoustic_quantizer", self.acoustic_quantizer, "euclidean", "factorized")
        _check_count("semantic_layer", self.semantic_layer, self.ssl.num_hidden_layers)
        _check_count("num_codebooks", self.num_codebooks, 1 + self.num_acoustic)
        sizes = (self.semantic_codebook_size, self.codebook_size, self.codebook_dim, self.dim)
        if min(*sizes, self.pool_factor, self.num_acoustic) < 1:
            raise InvalidConfig(f"every size must be at least 1: {self}")
        rates = {"decoder_rates": self.decoder_rates}
        if self.acoustic_source == "conv":
            rates["encoder_rates"] = self.encoder_rates
        for key, value in rates.items():
            if prod(value) != self.hop_length:
                raise InvalidConfig(
                    f"{key} {value} multiply to {prod(value)}, a frame has {self.hop_length} "
                    "samples (conv_stride and pool_factor)"
                )

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.ssl.hop_length * self.pool_factor

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Sizes of the codebooks that encode returns."""
        sizes = (self.semantic_codebook_size, *[self.codebook_size] * self.num_acoustic)
        return sizes[: self.num_codebooks]


_WAVLM_BASE = SSLConfig(
    feat_extract_norm="group",
    hidden_size=768,
    intermediate_size=3072,
    num_attention_heads=12,
    num_hidden_layers=12,
    do_stable_layer_norm=False,
    do_normalize=False,
)
_HUBERT_BASE = replace(_WAVLM_BASE, model_type="hubert", do_normalize=True)
_LARGE = HasrdConfig()
_WHISPER_TINY = WhisperConfig(
    d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536
)
_TAPS = {SSLConfig: _LARGE.semantic_layer, WhisperConfig: WhisperConfig().encoder_layers}

VARIANTS = {
    "hasrd-0.5k": replace(_LARGE, num_codebooks=1),
    "hasrd-1k": replace(_LARGE, num_codebooks=2),
    "hasrd-2k": _LARGE,
    "hasrd-2k-wavlm-base": replace(_LARGE, ssl=_WAVLM_BASE, semantic_layer=9),
    "hasrd-2k-hubert-base": replace(_LARGE, ssl=_HUBERT_BASE, semantic_layer=9),
    "hasrd-2k-whisper-base": replace(_LARGE, ssl=WhisperConfig(), semantic_layer=6),
    # Small enough to train on one CPU core.
    "hasrd-2k-whisper-tiny": replace(
        _LARGE, ssl=_WHISPER_TINY, semantic_layer=4, dim=256, decoder_dim=192
    ),
}
_PARAMETERS = {
    "hasrd-2k-wavlm-base": 123_079_199,
    "hasrd-2k-hubert-base": 123_070_571,
    "hasrd-2k-whisper-base": 70_029_672,
    "hasrd-2k-whisper-tiny": 10_577_330,
}
CARDS = {
    name: Card(
        parameters=_PARAMETERS.get(name, 328_147_311),
        paper="arXiv 2506.00843",
        licence=UNPUBLISHED,
        longest_clips={} if isinstance(config.ssl, WhisperConfig) else LONGEST_ATTENDED,
    )
    for name, config in VARIANTS.items()
}


def read_hasrd_config(name: str, values: Mapping[str, Any] | None) -> HasrdConfig:
    """Return the variant, or the family's defaults, replaced by `values`; "ssl" is nested.

    If `ssl.model_type` is of another kind than the variant's, the defaults are those of its kind.
    """
    base, own = VARIANTS.get(name, _LARGE), dict(values or {})
    if "ssl" in own:
        section = read_section("ssl", own["ssl"])
        model_type = section.get("model_type", base.ssl.model_type)
        kind = WhisperConfig if model_type == "whisper" else SSLConfig
        if not isinstance(base.ssl, kind):
            base = replace(base, ssl=kind(), semantic_layer=_TAPS[kind])
        own["ssl"] = override(base.ssl, section)
    return override(base, own)
