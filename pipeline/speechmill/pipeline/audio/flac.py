"""16-bit FLAC through dr_flac, which decodes speech in 0.6 of the time that libFLAC takes."""

from dataclasses import dataclass
from typing import Any

import miniaudio
import numpy as np
import numpy.typing as npt

from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import TruncatedAudio, UndecodableAudio

_MAGIC = (b"fLaC\x00", b"fLaC\x80")  # the stream info comes first, and may be all metadata
_PACKED = slice(18, 26)  # 20 bits of rate, 3 of channels - 1, 5 of sample bits - 1, 36 of length


@dataclass(frozen=True, slots=True)
class FlacHeader:
    """The stream info of a FLAC file (RFC 9639, section 8.2)."""

    sample_rate: int  # Hz
    num_channels: int
    num_samples: int  # of each channel


def flac_header(data: Blob) -> FlacHeader | None:
    """The header of a native FLAC file of 16 bits that states its length, else None."""
    packed = int.from_bytes(data[_PACKED], "big")
    num_samples = packed & (2**36 - 1)
    if data[:5] not in _MAGIC or (packed >> 36 & 31) != 15 or not num_samples:
        return None
    return FlacHeader(packed >> 44, (packed >> 41 & 7) + 1, num_samples)


def read_flac(data: Blob, header: FlacHeader) -> npt.NDArray[Any]:
    """Decode the whole file to int16 of shape (T, C).

    dr_flac leaves out each frame whose checksum does not fit, so that the length tells of damage.
    """
    try:
        decoded = miniaudio.flac_read_s16(data[:])
    except miniaudio.DecodeError as error:
        raise UndecodableAudio(f"dr_flac: {error}") from error
    if decoded.num_frames != header.num_samples:
        raise TruncatedAudio(
            f"the header claims {header.num_samples} samples, the body holds {decoded.num_frames}"
        )
    return np.asarray(decoded.samples, dtype=np.int16).reshape(-1, header.num_channels)
