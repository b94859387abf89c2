"""FocalCodec (arXiv 2502.04465) and FocalCodec-Stream (2509.16195): sizes and released variants.

Fields are named as in the published `config.json`.
"""

from dataclasses import dataclass
from math import lcm, prod

from speechmill.codecs.config import receptive_field
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.family import LONGEST_ATTENDED, Card

SAMPLE_RATE = 16_000


@dataclass(frozen=True, kw_only=True, slots=True)
class WavLMConfig:
    """The first layers of WavLM; `window_size` and `lookahead_size` apply only if causal."""

    hidden_dims: tuple[int, ...] = (512,) * 7
    kernel_sizes: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    num_layers: int = 6
    dim: int = 1024
    ffn_dim: int = 4096
    num_heads: int = 16
    num_buckets: int = 320
    max_distance: int = 800
    conv_pos: int = 128
    conv_pos_groups: int = 16
    causal: bool = False
    window_size: int = 512
    lookahead_size: int = 3

    @property
    def hop_length(self) -> int:
        """Samples per feature frame."""
        return prod(self.strides)

    @property
    def receptive_field(self) -> int:
        """Samples that one feature frame depends on."""
        return receptive_field(self.kernel_sizes, self.strides)

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk, which attend to each other."""
        return 1 + self.lookahead_size


@dataclass(frozen=True, kw_only=True, slots=True)
class FocalConfig:
    """Sizes of the compressor's and decompressor's blocks; `window_size` applies if causal."""

    focal_window: int = 14
    focal_level: int = 2
    focal_factor: int = 4
    use_post_norm: bool = False
    use_layerscale: bool = False
    normalize_modulator: bool = False
    causal: bool = False
    window_size: int = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressorConfig(FocalConfig):
    """Features to latents."""

    input_dim: int = 1024
    output_dim: int = 12
    hidden_dims: tuple[int, ...] = (1024, 1024, 1024)
    downscale_factors: tuple[int, ...] = (1, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecompressorConfig(FocalConfig):
    """Code vectors to features."""

    input_dim: int = 12
    output_dim: int = 1024
    hidden_dims: tuple[int, ...] = (1024, 1024, 1024)
    upscale_factors: tuple[int, ...] = (1, 1, 1)
    last_window_size: int = 512
    lookahead_size: int = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveNeXtConfig:
    """A ConvNeXt backbone whose head is one linear layer per hop (Okamoto et al., ASRU 2023)."""

    input_dim: int = 1024
    num_layers: int = 8
    dim: int = 1024
    ffn_dim: int = 2048
    kernel_size: int = 7
    hop_length: int = 480
    causal: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class VocosConfig:
    """The same backbone, with an inverse STFT as its head (arXiv 2306.00814)."""

    input_dim: int = 1024
    num_layers: int = 8
    dim: int = 512
    ffn_dim: int = 1536
    kernel_size: int = 7
    n_fft: int = 1024
    hop_length: int = 320
    causal: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FocalCodecConfig:
    """All sizes of the network; the defaults are those of the authors' version 0.0.2."""

    encoder: WavLMConfig = WavLMConfig()
    compressor: CompressorConfig = CompressorConfig()
    codebook_size: int = 4096
    decompressor: DecompressorConfig = DecompressorConfig()
    decoder: WaveNeXtConfig | VocosConfig = WaveNeXtConfig()

    def __post_init__(self) -> None:
        bits = self.codebook_size.bit_length() - 1
        if self.codebook_size != 1 << bits:
            raise InvalidConfig(f"codebook_size is {self.codebook_size}, not a power of two")
        widths = (
            ("encoder dim", self.encoder.dim, "compressor input_dim", self.compressor.input_dim),
            ("compressor output_dim", self.compressor.output_dim, "bits of codebook_size", bits),
            ("decompressor input_dim", self.decompressor.input_dim, "bits of codebook_size", bits),
            (
                "decompressor output_dim",
                self.decompressor.output_dim,
                "decoder input_dim",
                self.decoder.input_dim,
            ),
            ("product of upscale_factors", self.upscale, "that of downscale_factors", self.scale),
        )
        for one, size, other, expected in widths:
            if size != expected:
                raise InvalidConfig(f"{one} is {size}, but {other} is {expected}")
        if isinstance(self.decoder, VocosConfig) and self.decoder.causal:
            raise InvalidConfig("a causal Vocos is not released; use WaveNeXt or causal=false")

    @property
    def scale(self) -> int:
        """Feature frames per token."""
        return prod(self.compressor.downscale_factors)

    @property
    def upscale(self) -> int:
        """Feature frames that one token becomes in the decoder."""
        return prod(self.decompressor.upscale_factors)

    @property
    def hop_length(self) -> int:
        """Samples per token."""
        return self.encoder.hop_length * self.scale

    @property
    def frame_offset(self) -> int:
        """As in `CodecInfo`: only the causal encoder pads each clip on the left."""
        missing = 1 if self.encoder.causal else self.encoder.receptive_field
        return self.hop_length - missing

    @property
    def output_sample_rate(self) -> int:
        """Samples per second of decoded audio."""
        return SAMPLE_RATE * self.decoder.hop_length // self.encoder.hop_length

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a stream's chunk, so that it contains whole chunks of every part."""
        frames = [self.encoder.chunk_frames, 1 + self.decompressor.lookahead_size, self.scale]
        return lcm(*frames) // self.scale

    @property
    def causal(self) -> bool:
        """Whether no part looks further ahead than its chunk."""
        parts = (self.encoder, self.compressor, self.decompressor, self.decoder)
        return all(part.causal for part in parts)


def _offline(down: tuple[int, ...], up: tuple[int, ...]) -> FocalCodecConfig:
    widths = (1024, 512, 256)
    return FocalCodecConfig(
        codebook_size=8192,
        compressor=CompressorConfig(
            output_dim=13,
            hidden_dims=widths,
            downscale_factors=down,
            focal_window=7,
            focal_factor=2,
        ),
        decompressor=DecompressorConfig(
            input_dim=13,
            hidden_dims=widths[::-1],
            upscale_factors=up,
            focal_window=7,
            focal_factor=2,
        ),
        decoder=VocosConfig(),
    )


def _causal(bits: int) -> FocalCodecConfig:
    return FocalCodecConfig(
        encoder=WavLMConfig(causal=True),
        codebook_size=1 << bits,
        compressor=CompressorConfig(output_dim=bits, causal=True),
        decompressor=DecompressorConfig(input_dim=bits, causal=True),
        decoder=WaveNeXtConfig(causal=True),
    )


V001 = _offline((1, 1, 1), (1, 1, 1))  # the defaults of the authors' version 0.0.1
V002 = FocalCodecConfig()  # of version 0.0.2

VARIANTS = {
    "focalcodec-50hz": V001,
    "focalcodec-25hz": _offline((2, 1, 1), (1, 1, 2)),
    "focalcodec-12_5hz": _offline((2, 2, 1), (1, 2, 2)),
    "focalcodec-50hz-2k-causal": _causal(11),
    "focalcodec-50hz-4k-causal": _causal(12),
    "focalcodec-50hz-65k-causal": _causal(16),
}


def _card(parameters: int, paper: str, file: str) -> Card:
    files = {"checkpoint": f"hf://lucadellalib/focalcodec_{file}"}
    return Card(
        parameters=parameters,
        paper=paper,
        licence="Apache-2.0",
        files=files,
        longest_clips=LONGEST_ATTENDED,
    )


_OFFLINE, _CAUSAL = "arXiv 2502.04465", "arXiv 2509.16195"
CARDS = {  # revisions and digests of the offline files come from a third-party port
    "focalcodec-50hz": _card(
        142_126_257,
        _OFFLINE,
        "50hz@d6d6d9524e52155c85193c2c3b8da1cf8842f019/model.safetensors"
        "#sha256=2700a916ca8d1c11a899995ef8d451ee53a481486650c4b78cd96feff9ac77f0",
    ),
    "focalcodec-25hz": _card(
        144_223_409,
        _OFFLINE,
        "25hz@581aa401901b4985fbbdd3569d80a5a191740c1f/model.safetensors"
        "#sha256=07a5ca4b92fb1fdc0499e761df6373d5b0811b8b950335fc40bcf6dc4f300441",
    ),
    "focalcodec-12_5hz": _card(
        145_271_985,
        _OFFLINE,
        "12_5hz@96ddced5e284f109d9022a65d1062fcd92dc33eb/model.safetensors"
        "#sha256=5362c33ed75801d9bced7e8573f8eece674592ea3c3156451a85f4b924b1c1e5",
    ),
    "focalcodec-50hz-2k-causal": _card(249_036_441, _CAUSAL, "50hz_2k_causal/model.safetensors"),
    "focalcodec-50hz-4k-causal": _card(249_038_490, _CAUSAL, "50hz_4k_causal/model.safetensors"),
    "focalcodec-50hz-65k-causal": _card(249_046_686, _CAUSAL, "50hz_65k_causal/model.safetensors"),
}
