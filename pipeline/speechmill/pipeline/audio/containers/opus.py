"""The header of Opus in Ogg, WebM and MP4 (RFC 7845, section 5.1)."""

import struct
from dataclasses import dataclass

CLOCK = 48_000  # Hz, at which Opus counts samples
_RATES = (8_000, 12_000, 16_000, 24_000, CLOCK)  # Hz, at which it can be decoded
_MONO_OR_STEREO, _SURROUND, _AMBISONICS, _DISCRETE = 0, 1, 2, 255  # families of channel mappings
_MOST_SURROUND = 8  # channels


@dataclass(frozen=True, slots=True)
class OpusHeader:
    """How to decode a stream of Opus."""

    num_channels: int
    pre_skip: int  # samples at 48 kHz that come before the audio
    sample_rate: int  # Hz, at which to decode: the least that holds the audio that was encoded
    gain: int  # by which to multiply the samples, dB / 256
    num_streams: int
    num_coupled: int  # of these that are stereo
    mapping: bytes  # the channel of the streams that each channel of the audio is


def opus_header(packet: bytes) -> OpusHeader | None:
    """The header in the first packet of a stream; None for other packets and future versions."""
    if packet[:8] != b"OpusHead" or len(packet) < 19 or packet[8] >> 4:
        return None
    channels, pre_skip, input_rate, gain, family = struct.unpack_from("<BHIhB", packet, 9)
    table = bytes([1, channels - 1, *range(channels)]) if 0 < channels < 3 else b""
    if family != _MONO_OR_STEREO:
        known = family in (_SURROUND, _AMBISONICS, _DISCRETE)
        table = packet[19 : 21 + channels] if known else b""
    if len(table) != 2 + channels or (family == _SURROUND and channels > _MOST_SURROUND):
        return None
    # 0 is a rate that the encoder did not state.
    rate = next((rate for rate in _RATES if 0 < input_rate <= rate), CLOCK)
    return OpusHeader(channels, pre_skip, rate, gain, table[0], table[1], table[2:])
