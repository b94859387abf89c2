"""Native FLAC (RFC 9639): its stream info, and whether its last frame is the one it claims."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from speechmill.pipeline.audio.containers.held import joined
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import TruncatedAudio, UndecodableAudio

_STREAM_INFO = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")  # head of the block that comes first
_ANOTHER = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # twice as fast as two calls of `find`
_PACKED = slice(18, 26)  # 20 bits of rate, 3 of channels - 1, 5 of sample bits - 1, 36 of length
_VARIABLE = 0xF9  # second byte of a frame that counts samples, where others count frames
_RATES = {  # Hz, by their code; the rate may also be that of the file, or follow the header
    1: 88_200,
    2: 176_400,
    3: 192_000,
    4: 8_000,
    5: 16_000,
    6: 22_050,
    7: 24_000,
    8: 32_000,
    9: 44_100,
    10: 48_000,
    11: 96_000,
}
_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}  # of a sample, by their code
_CRC8 = [0] * 256
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value << 1 ^ (0x107 if _value & 0x80 else 0)) & 0x1FF
    _CRC8[_byte] = _value & 0xFF


@dataclass(frozen=True, slots=True)
class FlacHeader:
    """The stream info of a FLAC file (section 8.2)."""

    sample_rate: int  # Hz
    num_channels: int
    sample_bits: int
    num_samples: int  # of each channel; 0: not stated
    block_size: int  # samples of each frame but the last one, where frames have one size


def flac_header(data: Blob) -> FlacHeader | None:
    """The header of a native FLAC file, else None."""
    if data[:4] != b"fLaC" or data[4:8] not in _STREAM_INFO or len(data) < _PACKED.stop:
        return None
    packed = int.from_bytes(data[_PACKED])
    return FlacHeader(
        sample_rate=packed >> 44,
        num_channels=(packed >> 41 & 7) + 1,
        sample_bits=(packed >> 36 & 31) + 1,
        num_samples=packed & (2**36 - 1),
        block_size=int.from_bytes(data[8:10]),
    )


def check_flac(data: Blob, header: FlacHeader) -> int:
    """Return the samples of each channel; raise unless the frames end where the header says.

    Bytes after the last frame are ignored, as decoders do, unless they are another FLAC file.
    """
    begin = _end_of_metadata(data)
    if another := _ANOTHER.search(data, begin):
        raise joined(another.start())
    if not header.num_samples:
        return _end_of_last_frame(data, begin, header)
    last = 0  # sample after the last frame
    for start, end in _frames_from_the_end(data, begin, header):
        if start == header.num_samples:
            break
        if end == header.num_samples:
            return end
        last = max(last, end)
    raise TruncatedAudio(
        f"the header claims {header.num_samples} samples, the last frame ends with sample {last}"
    )


def _end_of_last_frame(data: Blob, begin: int, header: FlacHeader) -> int:
    """The sample after the last frame, which is one that begins where another frame ends."""
    ends: dict[int, int] = {}
    for start, end in _frames_from_the_end(data, begin, header):
        if end in ends:
            return ends[end]
        ends.setdefault(start, end)
    if 0 not in ends:
        raise UndecodableAudio("the FLAC frames do not follow each other")
    return ends[0]


def _end_of_metadata(data: Blob) -> int:
    """The byte of the first frame."""
    position, is_last = 4, False
    while not is_last:
        head = data[position : position + 4]
        if len(head) < 4:
            raise TruncatedAudio("the metadata of the FLAC file are cut")
        is_last = bool(head[0] & 0x80)
        position += 4 + int.from_bytes(head[1:])
    return position


def _frames_from_the_end(data: Blob, begin: int, header: FlacHeader) -> Iterator[tuple[int, int]]:
    """First sample and end of each frame, from the last one; a few may be found by chance."""
    sync = data[begin : begin + 2]
    if sync not in (b"\xff\xf8", b"\xff\xf9"):
        raise UndecodableAudio(f"no FLAC frame at byte {begin}")
    position = len(data)
    while (position := data.rfind(sync, begin, position + 1)) >= 0:
        if span := _span(data[position : position + 16], header):
            yield span
        if position == begin:
            return
        position -= 1


def _span(head: bytes, header: FlacHeader) -> tuple[int, int] | None:
    """First sample and end of the frame with this header (section 9.1); None if it is not one."""
    if len(head) < 6 or head[3] & 1 or not _has_form(head, header):
        return None
    number, position = _coded_number(head, 4)
    size_code = head[2] >> 4
    size = _block_size(size_code, head, position)
    position += {6: 1, 7: 2}.get(size_code, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if not size or position >= len(head) or _crc8(head[:position]) != head[position]:
        return None
    start = number if head[1] == _VARIABLE else number * header.block_size
    return start, start + size


def _has_form(head: bytes, header: FlacHeader) -> bool:
    """Whether a frame has the rate, the channels and the sample bits of the file."""
    rate, channels = _RATES.get(head[2] & 15, header.sample_rate), head[3] >> 4
    num_channels = channels + 1 if channels < 8 else 2
    bits = _BITS.get(head[3] >> 1 & 7, header.sample_bits)
    found = (rate, num_channels, bits)
    return found == (header.sample_rate, header.num_channels, header.sample_bits)


def _block_size(code: int, head: bytes, position: int) -> int:
    """Samples of each channel in the frame; 0 for a reserved code."""
    if code in (6, 7):
        return int.from_bytes(head[position : position + code - 5]) + 1
    if code == 1:
        return 192
    return 576 << code - 2 if 2 <= code <= 5 else 256 << code - 8 if code >= 8 else 0


def _coded_number(head: bytes, position: int) -> tuple[int, int]:
    """A number that is coded like a character of UTF-8, of up to 36 bits, and its end."""
    first = head[position]
    length = max(1, 8 - (first ^ 0xFF).bit_length())
    number = first & (0x7F >> length if length > 1 else 0x7F)
    for byte in head[position + 1 : position + length]:
        number = number << 6 | byte & 0x3F
    return number, position + length


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _CRC8[value ^ byte]
    return value
