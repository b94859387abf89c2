"""Every error that a codec raises on purpose; each is a `CodecError`."""


class CodecError(Exception):
    """Base of every error of this package."""


class UnknownCodec(CodecError):
    """The name is not in the registry."""


class InvalidConfig(CodecError):
    """No such codec can be built from the configuration or option."""


class CheckpointError(CodecError):
    """A checkpoint cannot be fetched, read, verified or fitted to the network."""


class MissingDependency(CodecError):
    """The codec is computed by a package that is not installed."""


class UnsupportedPrecision(CodecError):
    """The device cannot compute in the precision asked for."""


class InvalidAudio(CodecError):
    """The input of encode is not float audio of shape (B, T)."""


class InvalidCodes(CodecError):
    """This codec cannot have made the input of decode."""
