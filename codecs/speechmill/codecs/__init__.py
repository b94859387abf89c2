"""Neural speech codecs: audio in, discrete tokens out, the same tokens in any batch."""

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.errors import (
    CheckpointError,
    CodecError,
    InvalidAudio,
    InvalidCodes,
    InvalidConfig,
    MissingDependency,
    UnknownCodec,
    UnsupportedPrecision,
)
from speechmill.codecs.registry import (
    codec_card,
    codec_info,
    codec_packages,
    list_codecs,
    load_codec,
    load_recipe,
)

__all__ = [
    "CheckpointError",
    "Codec",
    "CodecError",
    "CodecInfo",
    "InvalidAudio",
    "InvalidCodes",
    "InvalidConfig",
    "MissingDependency",
    "UnknownCodec",
    "UnsupportedPrecision",
    "codec_card",
    "codec_info",
    "codec_packages",
    "list_codecs",
    "load_codec",
    "load_recipe",
]
