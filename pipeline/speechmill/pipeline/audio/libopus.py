"""Decode packets of Opus by libopus, whose samples RFC 6716 defines to be the right ones.

FFmpeg's own decoder is no faster, and its samples of speech differ: by as much as a tenth of their
energy (infra/decisions/0020-opus-is-decoded-by-libopus.md).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import cffi

from speechmill.pipeline.audio.containers.opus import CLOCK, OpusHeader
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.errors import UndecodableAudio
from speechmill.pipeline.versions import libopus_path

LONGEST = 5760  # samples of a packet at 48 kHz: 120 ms
_SET_GAIN = 4034  # OPUS_SET_GAIN_REQUEST
_C = """
typedef struct OpusMSDecoder OpusMSDecoder;
OpusMSDecoder *opus_multistream_decoder_create(
    int32_t rate, int channels, int streams, int coupled, const unsigned char *mapping, int *error);
int opus_multistream_decode_float(
    OpusMSDecoder *, const unsigned char *packet, int32_t size, float *pcm, int room, int fec);
int opus_multistream_decoder_ctl(OpusMSDecoder *, int request, ...);
void opus_multistream_decoder_destroy(OpusMSDecoder *);
int opus_packet_get_nb_samples(const unsigned char *packet, int32_t size, int32_t rate);
const char *opus_strerror(int error);
"""
_FFI = cffi.FFI()
_FFI.cdef(_C)


@cache
def libopus() -> Any:
    """The library, to call; None without one."""
    path = libopus_path()
    return _FFI.dlopen(path) if path else None


def packet_samples(packet: bytes) -> int:
    """Samples of a packet at 48 kHz by its first bytes; 0 if they are damaged."""
    return max(0, int(libopus().opus_packet_get_nb_samples(packet, len(packet), CLOCK)))


class OpusDecoder:
    """Decodes the packets of one stream at a rate that Opus supports.

    Raises `UndecodableAudio` if the streams of the header do not make up its channels.
    """

    def __init__(self, header: OpusHeader, rate: int):
        self._library, error = libopus(), _FFI.new("int *")
        streams = (header.num_streams, header.num_coupled, header.mapping)
        create = self._library.opus_multistream_decoder_create
        state = create(rate, header.num_channels, *streams, error)
        if not state:
            reason = _text(self._library.opus_strerror(error[0]))
            raise UndecodableAudio(f"Opus of {header.num_channels} channels: {reason}")
        self._state = _FFI.gc(state, self._library.opus_multistream_decoder_destroy)
        gain = _FFI.cast("int", header.gain)
        self._library.opus_multistream_decoder_ctl(self._state, _SET_GAIN, gain)
        self.room = LONGEST * rate // CLOCK  # samples that a packet may need

    def decode(self, packets: Sequence[bytes], into_TC: Samples) -> list[int]:
        """Decode packets while there is room for another; return the samples of each of them.

        `into_TC` is contiguous float32.
        """
        decode, state, room = self._library.opus_multistream_decode_float, self._state, self.room
        num_samples, channels = into_TC.shape
        sink = _FFI.from_buffer("float[]", into_TC, require_writable=True) + 0
        sizes: list[int] = []
        for packet in packets:
            if num_samples < room:
                break
            # libopus would take an empty packet for a lost one and conceal it.
            size = decode(state, packet, len(packet), sink, room, 0) if packet else 0
            if size <= 0:
                reason = _text(self._library.opus_strerror(size)) if size else "it is empty"
                raise UndecodableAudio(f"a packet of Opus is damaged: {reason}")
            sizes.append(size)
            num_samples -= size
            sink += size * channels
        return sizes


def _text(pointer: Any) -> str:
    return str(_FFI.string(pointer).decode())
