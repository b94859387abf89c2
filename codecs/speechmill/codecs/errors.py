"""Every error that a codec raises on purpose.

CodecError
├── UnknownCodec         the name is not in the registry
├── InvalidConfig        a configuration or option that no such codec can be built from
├── CheckpointError      a checkpoint cannot be fetched, read, verified or fitted to the network
├── MissingDependency    the codec is computed by a package that is not installed
├── UnsupportedPrecision the device cannot compute in the precision asked for
├── InvalidAudio         encode was given something else than float audio of shape (B, T)
└── InvalidCodes         decode was given codes that this codec cannot have made
"""


class CodecError(Exception):
    """Base of every error of this package."""


class UnknownCodec(CodecError):
    """The name is not in the registry."""


class InvalidConfig(CodecError):
    """A configuration or option that no such codec can be built from."""


class CheckpointError(CodecError):
    """A checkpoint cannot be fetched, read, verified or fitted to the network."""


class MissingDependency(CodecError):
    """The codec is computed by a package that is not installed."""


class UnsupportedPrecision(CodecError):
    """The device cannot compute in the precision asked for."""


class InvalidAudio(CodecError):
    """Encode was given something else than float audio of shape (B, T)."""


class InvalidCodes(CodecError):
    """Decode was given codes that this codec cannot have made."""
