"""The result of a check, and the errors that all checks share."""

from dataclasses import dataclass

from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import SampleError, TruncatedAudio, UndecodableAudio

PIPE = "; if it was written to a pipe, write it to a file instead"
_PADDING = (
    4096  # zero bytes that may follow the audio, as some writers fill the last block of a disk
)


@dataclass(frozen=True, slots=True)
class Held:
    """What the container holds, for comparison with what the decoder gives; None: not stated."""

    audio_bytes: int | None = None  # of the samples
    num_samples: int | None = None  # of each channel
    mp3: tuple[int, int] | None = None  # first byte and end of the MP3 that a WAV holds
    end: int | None = None  # byte after the container, padding included; None: of the data
    states_length: bool = True  # else FFmpeg guesses the length by the bit rate


def cut(missing: int, cure: str = "") -> SampleError:
    """The error for a container that ends too early."""
    return TruncatedAudio(f"the container claims {missing} bytes more than there are{cure}")


def unexplained(data: Blob, position: int) -> SampleError:
    """The error for bytes that a decoder would silently leave out."""
    return UndecodableAudio(
        f"{len(data) - position} bytes from byte {position} on are neither audio that the header "
        "claims nor a known tag: the header claims too little, or files were joined"
    )


def endless(name: str) -> SampleError:
    """The error for a header that leaves the size of the samples open."""
    return UndecodableAudio(
        f"the header of this {name} does not state the size of the samples, so a cut file would "
        f"look whole{PIPE}"
    )


def joined(position: int) -> SampleError:
    """The error for one file that follows another."""
    return UndecodableAudio(
        f"a second file begins at byte {position}; of joined files only the first would be "
        "decoded: split them"
    )


def refuse_tail(data: Blob, position: int) -> None:
    """Raise unless only zeros that fill a block follow."""
    tail = data[position : position + _PADDING + 1]
    if len(tail) > _PADDING or tail.count(0) != len(tail):
        raise unexplained(data, position)
