"""Neural speech codecs: audio in, discrete tokens out, the same tokens in any batch."""

from speech_codecs.api import Codec, CodecInfo
from speech_codecs.errors import (
    CheckpointError,
    CodecError,
    InvalidAudio,
    InvalidCodes,
    InvalidConfig,
    MissingDependency,
    UnknownCodec,
    UnsupportedPrecision,
)
from speech_codecs.registry import (
    codec_card,
    codec_info,
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
    "list_codecs",
    "load_codec",
    "load_recipe",
]
