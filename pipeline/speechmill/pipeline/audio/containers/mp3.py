"""MPEG audio, layers I to III: a row of frames that may begin with a tag of their number.

Headers by ISO/IEC 11172-3, section 2.4.2.3, and 13818-3; the tags of Xing and LAME by what their
encoders write (http://gabriel.mp3-tech.org/mp3infotag.html), that of Fraunhofer likewise.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from speechmill.pipeline.audio.containers.held import cut, refuse_tail
from speechmill.pipeline.audio.containers.tags import end_of_tags
from speechmill.pipeline.blob import Blob, section, spool
from speechmill.pipeline.errors import TruncatedAudio, UndecodableAudio

_LAYER_1 = (0, *range(32, 449, 32))
_KBPS = {  # by whether the version is 1, and by the layer; index 0 is the free format
    (True, 1): _LAYER_1,
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBPS[False, 3] = _KBPS[False, 2]
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MONO = 3
_LONGEST = 2881  # bytes of a frame
_DECODER_DELAY = 529  # samples
_FRAME_END = 4  # bytes; encoders fill the rest of a frame, but not with zeros
_FIELDS = 64  # bytes of a frame in which a tag begins
_SURE = 4  # frames in a row that cannot be a coincidence
_TAG = re.compile(rb"Xing|Info|VBRI")
_NOT_ZERO = re.compile(rb"[^\0]")


@dataclass(frozen=True, slots=True)
class Tag:
    """The content of a first frame that holds no audio."""

    num_frames: int  # that follow; some encoders count the first frame as well
    num_bytes: int  # of all frames; 0: not stated
    delay: int  # samples by which the encoder and the decoder are late, where LAME's fields say so


@dataclass(frozen=True, slots=True)
class Mp3:
    """The frames of a file."""

    runs: list[tuple[int, int]]  # first byte and end of the frames between tags
    num_frames: int
    samples_per_frame: int
    tag: Tag | None

    @property
    def is_counted(self) -> bool:
        """Whether the tag counts the frames as they are."""
        return self.tag is not None and self.tag.num_frames == self.num_frames - 1

    @property
    def num_samples(self) -> int:
        """Of all frames, where the tag does not count them."""
        if not self.tag:
            return self.num_frames * self.samples_per_frame
        return (self.num_frames - 1) * self.samples_per_frame - self.tag.delay

    def frames(self, data: Blob) -> Blob:
        """The frames without the tags of text between them."""
        if len(self.runs) == 1:
            return section(data, *self.runs[0])
        return spool((data[start:stop] for start, stop in self.runs), len(data))


@dataclass(frozen=True, slots=True)
class _Header:
    version: int  # 3 is MPEG-1, 2 is MPEG-2, 0 is MPEG-2.5
    layer: int
    rate: int  # Hz
    rate_index: int
    mono: bool

    @property
    def samples(self) -> int:
        if self.layer == 1:
            return 384
        return 1152 if self.layer == 2 or self.version == 3 else 576

    @property
    def slot(self) -> int:
        """Bytes that the padding bit adds."""
        return 4 if self.layer == 1 else 1


@lru_cache(maxsize=64)
def _sizes(header: _Header, free: int) -> tuple[int, ...]:
    """Bytes of a frame by the third byte of its header, 0 where that differs from this stream.

    `free` are the bytes of a frame of the free format without padding.
    """
    kbps = _KBPS[header.version == 3, header.layer]
    sizes = [0] * 256
    for index, rate in enumerate(kbps):
        slots = header.samples // 8 * rate * 1000 // header.rate // header.slot
        size = slots * header.slot if index else free
        for padding in (0, 1) if size else ():
            for private in (0, 1):
                byte = index << 4 | header.rate_index << 2 | padding << 1 | private
                sizes[byte] = size + padding * header.slot
    return tuple(sizes)


def scan_mp3(data: Blob) -> Mp3 | None:
    """Follow the frames up to the last byte; None if the data do not begin with frames.

    A part of a frame may come first, as in a recording of a broadcast. Raises `TruncatedAudio` for
    a frame that is cut and for a tag that counts more frames than there are, `UndecodableAudio` for
    bytes that are neither frames, tags nor zeros at the end.
    """
    start = _first_frame(data)
    header = None if start is None else _header(data, start)
    if start is None or header is None:
        return None
    second, sizes = data[start + 1] | 1, _sizes(header, _free_bytes(data, start, header))
    runs: list[tuple[int, int]] = []
    num_frames, length = 0, len(data) - 3
    position = begin = start
    while True:
        # This loop runs 140,000 times for an hour of audio.
        while position < length and data[position] == 0xFF and data[position + 1] | 1 == second:
            size = sizes[data[position + 2]]
            if not size:
                break
            position += size
            num_frames += 1
        if position > begin:
            runs.append((begin, position))
        begin = end_of_tags(data, position)
        if begin == position:
            break
        position = begin
    mp3 = Mp3(runs, num_frames, header.samples, _tag(data[start : start + _LONGEST], header))
    _check_begin(data, mp3, sizes)
    _check_end(data, position, mp3)
    if not mp3.is_counted:
        _check_count(data, mp3, sizes)
    return mp3


def _check_begin(data: Blob, mp3: Mp3, sizes: tuple[int, ...]) -> None:
    """Raise if more than the rest of one frame precedes the first one."""
    start = mp3.runs[0][0]
    begin = _after_zeros(data)
    if begin == start:
        return
    if start - begin > max(sizes[data[position + 2]] for position in _frames(data, mp3, sizes)):
        raise UndecodableAudio(
            f"the {start - begin} bytes before the first MPEG frame are more than the rest of one"
        )


def _check_end(data: Blob, position: int, mp3: Mp3) -> None:
    if position > len(data):
        raise cut(position - len(data))
    if any(data[position:]):
        raise UndecodableAudio(f"no MPEG audio frame at byte {position} of {len(data)}")
    if mp3.is_counted:
        return
    refuse_tail(data, position)
    if position < len(data) and not any(data[position - _FRAME_END : position]):
        raise UndecodableAudio(f"zeros from a frame that ends at byte {position} on: a broken copy")


def _check_count(data: Blob, mp3: Mp3, sizes: tuple[int, ...]) -> None:
    """Raise if the tags of one file or of joined ones count more frames than there are.

    Unless all bytes are there, a tag does not count its own frame.
    """
    tags = list(_tags(data, mp3, sizes))
    num_bytes = sum(stop - start for start, stop in mp3.runs)
    needed = sum(tag.num_frames for tag in tags)
    if not all(tag.num_bytes for tag in tags) or sum(tag.num_bytes for tag in tags) > num_bytes:
        needed += sum(bool(tag.delay or tag.num_bytes) for tag in tags)
    if needed > mp3.num_frames:
        raise TruncatedAudio(f"the tag counts {needed} frames, there are {mp3.num_frames}")


def _tags(data: Blob, mp3: Mp3, sizes: tuple[int, ...]) -> Iterator[Tag]:
    """The tags of all first frames."""
    for position in _frames(data, mp3, sizes) if _TAG.search(data) else ():
        if _TAG.search(data, position, position + _FIELDS):
            header = _header(data, position)
            if header and (tag := _tag(data[position : position + _LONGEST], header)):
                yield tag


def _frames(data: Blob, mp3: Mp3, sizes: tuple[int, ...]) -> Iterator[int]:
    """The byte of each frame."""
    for position, stop in mp3.runs:
        while position < stop:
            yield position
            position += sizes[data[position + 2]]


def _header(data: Blob, position: int) -> _Header | None:
    """The header of the frame at a position, if there is one."""
    head = data[position : position + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate_index = head[2] >> 2 & 3
    if version == 1 or layer == 4 or rate_index == 3 or head[2] >> 4 == 15:
        return None
    return _Header(version, layer, _RATES[version][rate_index], rate_index, head[3] >> 6 == _MONO)


def _first_frame(data: Blob) -> int | None:
    """Where the first of several frames begins; a file of few frames begins with them."""
    begin = _after_zeros(data)
    for position in range(begin, min(len(data), begin + _LONGEST)):
        if data[position] == 0xFF and (header := _header(data, position)):
            frames, end = _follow(data, position, header)
            if frames == _SURE or (position == begin and frames and end + 3 >= len(data)):
                return position
    return None


def _after_zeros(data: Blob) -> int:
    """The first byte that is not 0; the padding of a tag may go on after it."""
    found = _NOT_ZERO.search(data)
    return found.start() if found else len(data)


def _follow(data: Blob, position: int, header: _Header) -> tuple[int, int]:
    """How many frames follow each other, up to a few, and where they end."""
    second, sizes = data[position + 1] | 1, _sizes(header, _free_bytes(data, position, header))
    for frames in range(_SURE):
        head = data[position : position + 3]
        size = sizes[head[2]] if len(head) == 3 else 0
        if not size or head[0] != 0xFF or head[1] | 1 != second:
            return frames, position
        position += size
    return _SURE, position


def _free_bytes(data: Blob, position: int, header: _Header) -> int:
    """Bytes of a frame of the free format without padding: the distance of two headers.

    0 if the stream is not of the free format.
    """
    head = data[position : position + 4]
    if head[2] >> 4:
        return 0
    window = data[position : position + 2 * _LONGEST]
    padding = (head[2] >> 1 & 1) * header.slot
    for distance in range(24, _LONGEST):
        other = window[distance : distance + 3]
        if len(other) == 3 and other[:2] == head[:2] and other[2] & 0xFD == head[2] & 0xFD:
            return distance - padding
    return 0


def _tag(frame: bytes, header: _Header) -> Tag | None:
    """The tag of Xing or Fraunhofer in the first frame.

    Raises `UndecodableAudio` if LAME's checksum of the tag is wrong: the tag says how many samples
    are padding.
    """
    if header.layer != 3:
        return None
    if frame[36:40] == b"VBRI":
        return Tag(int.from_bytes(frame[50:54]), int.from_bytes(frame[46:50]), 0)
    side = (17 if header.mono else 32) if header.version == 3 else (9 if header.mono else 17)
    for start in (4 + side, 6 + side):  # a checksum of the header takes two bytes
        flags = int.from_bytes(frame[start + 4 : start + 8])
        if frame[start : start + 4] in (b"Xing", b"Info") and flags & 1:
            return _xing_tag(frame, start, flags)
    return None


def _xing_tag(frame: bytes, start: int, flags: int) -> Tag:
    """Four optional fields, then those of LAME: 34 bytes, and a checksum of all before it."""
    lame = start + 8 + sum(size for bit, size in enumerate((4, 4, 100, 4)) if flags >> bit & 1)
    encoder, checksum = frame[lame : lame + 4], int.from_bytes(frame[lame + 34 : lame + 36])
    # FFmpeg's tags ("Lavf") have the same fields, but not always this checksum.
    if encoder == b"LAME" and checksum and checksum != _crc16(frame[: lame + 34]):
        raise UndecodableAudio("the checksum of the LAME tag in the first frame is wrong")
    has_delay = encoder in (b"LAME", b"Lavf", b"Lavc")
    delay = (int.from_bytes(frame[lame + 21 : lame + 24]) >> 12) + _DECODER_DELAY
    num_frames, num_bytes = (int.from_bytes(frame[at : at + 4]) for at in (start + 8, start + 12))
    return Tag(num_frames, num_bytes if flags & 2 else 0, delay if has_delay else 0)


def _crc16(data: bytes) -> int:
    """CRC-16 with the polynomial 0x8005, reflected, from 0."""
    value = 0
    for byte in data:
        value = value >> 8 ^ _CRC16[value & 0xFF ^ byte]
    return value


def _crc16_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value


_CRC16 = [_crc16_of_byte(byte) for byte in range(256)]
