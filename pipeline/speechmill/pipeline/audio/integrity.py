"""The format of a file, and whether the file is complete, according to its container.

Decoders silently ignore a missing end or a damaged page; most containers reveal it.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import SampleError, TruncatedAudio, UndecodableAudio

_BY_LIBSNDFILE = ("wav", "flac", "mp3", "ogg", "oga", "opus", "aiff", "aif", "au", "caf", "w64")
_BY_FFMPEG = ("m4a", "aac", "mp4", "webm", "mka", "wma", "amr")
# Suffixes of members that are audio; their bytes decide the format.
AUDIO_SUFFIXES = (*_BY_LIBSNDFILE, *_BY_FFMPEG)

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675  # element ids of Matroska
_OGG_END = 4  # flag of a page
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_PIPE = "; if it was written to a pipe, write it to a file instead"


def ffmpeg_format(data: Blob) -> str | None:
    """FFmpeg's demuxer for a container that libsndfile does not support; None for other bytes.

    Probing by FFmpeg itself could take text for audio.
    """
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "mov"
    if data[:4] == _EBML.to_bytes(4):
        return "matroska"
    if data[:5] == b"#!AMR":
        return "amr"
    if data[:4] == b"\x30\x26\xb2\x75":
        return "asf"
    return "aac" if _adts_bytes(data, _end_of_id3(data)) else None


def check_whole(data: Blob) -> None:
    """Raise `TruncatedAudio` or `UndecodableAudio` if a container is not complete."""
    kind = ffmpeg_format(data)
    if kind in _CHECKS:
        _CHECKS[kind](data)
    elif data[:4] == b"OggS":
        _check_ogg(data)
    elif data[:4] in _CHUNKED:
        _check_chunks(data, _CHUNKED[data[:4]])
    elif data[:4] in (b".snd", b"dns."):
        _check_au(data)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """How a format arranges its chunks, one after the other."""

    first: int  # byte of the first chunk
    head: str  # of a chunk: name and size, for `struct`
    align: int = 2
    size_counts_head: bool = False
    data_is_last: bool = False  # bytes after the data chunk are not checked
    cure: str = ""


_CHUNKED = {
    b"RIFF": _Chunks(12, "<4sI", data_is_last=True, cure=_PIPE),
    b"RIFX": _Chunks(12, ">4sI", data_is_last=True, cure=_PIPE),
    b"RF64": _Chunks(12, "<4sI", data_is_last=True, cure=_PIPE),
    b"FORM": _Chunks(12, ">4sI"),
    b"caff": _Chunks(8, ">4sq", align=1),
    b"riff": _Chunks(40, "<4s12xq", align=8, size_counts_head=True),  # Sony Wave64
}


def _check_chunks(data: Blob, layout: _Chunks) -> None:
    position, head = layout.first, struct.calcsize(layout.head)
    large = 0  # size of the data chunk in RF64, where 32 bits are too few
    while position + head <= len(data):
        name: bytes
        size: int
        name, size = struct.unpack_from(layout.head, data, position)
        if name == b"ds64" and position + head + 16 <= len(data):
            large = struct.unpack_from("<8xQ", data, position + head)[0]
        if name == b"data" and size == -1:  # to the end of the file
            return
        size = large if large and size == 0xFFFFFFFF else size
        position += max(size, head) if layout.size_counts_head else head + max(size, 0)
        if position > len(data):
            raise _cut(position - len(data), layout.cure)
        if name == b"data" and layout.data_is_last:
            return
        position += -position % layout.align


def _check_au(data: Blob) -> None:
    order: Literal["big", "little"] = "big" if data[:4] == b".snd" else "little"
    start, size = (int.from_bytes(data[at : at + 4], order) for at in (4, 8))
    if size != 0xFFFFFFFF and start + size > len(data):
        raise _cut(start + size - len(data))


def _check_ogg(data: Blob) -> None:
    """Pages must be complete, with right checksums and consecutive numbers, and end with a mark."""
    numbers: dict[int, list[int]] = {}
    position, flags = 0, 0
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            raise UndecodableAudio(f"no Ogg page at byte {position}")
        header = data[position : position + 27 + 255]
        size = 27 + sum(header[27 : 27 + header[26]]) + header[26] if len(header) > 27 else 27
        if position + size > len(data):
            raise _cut(position + size - len(data))
        page = data[position : position + size]
        flags, serial, number, checksum = struct.unpack_from("<5xB8xIII", page)
        if _ogg_checksum(page) != checksum:
            raise UndecodableAudio(f"the checksum of the Ogg page at byte {position} is wrong")
        numbers.setdefault(serial, []).append(number)
        position += size
    for pages in numbers.values():
        for before, after in pairwise(pages):
            if after != before + 1:
                raise UndecodableAudio(f"Ogg page {after} follows {before}")
    if not flags & _OGG_END:
        raise TruncatedAudio("the last Ogg page is not marked as the end")


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 with the bit order of zlib's reversed, without inversion (RFC 3533, section 6)."""
    blank = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")


def _check_mov(data: Blob) -> None:
    """Boxes must follow each other up to the last byte (ISO/IEC 14496-12, section 4.2)."""
    position = 0
    while position < len(data):
        head = data[position : position + 16]
        if len(head) < 8:
            raise _cut(8 - len(head))
        size = int.from_bytes(head[:4])
        if size == 1:
            size = int.from_bytes(head[8:16])
        if size == 0:  # to the end of the file
            return
        if size < 8:
            raise UndecodableAudio(f"a box of {size} bytes at byte {position}")
        position += size
    if position > len(data):
        raise _cut(position - len(data))


def _check_matroska(data: Blob) -> None:
    """Elements must follow each other up to the last byte (RFC 8794).

    The size of a segment or cluster may be unknown, as in live recordings.
    """
    position = 0
    while position < len(data):
        kind, position = _ebml_number(data, position, keep_marker=True)
        size, position = _ebml_number(data, position)
        if size is None:
            if kind not in (_SEGMENT, _CLUSTER):
                unknown = f"element {kind:x} before byte {position} has an unknown size"
                raise UndecodableAudio(unknown)
        elif position + size > len(data):
            raise _cut(position + size - len(data))
        elif kind != _SEGMENT:  # the elements in a segment are checked as well
            position += size


def _ebml_number(data: Blob, start: int, keep_marker: bool = False) -> tuple[int | None, int]:
    """A number of variable length and its end; None if all its bits are set."""
    first = data[start] if start < len(data) else 0
    length = 9 - first.bit_length()
    if not first:
        raise UndecodableAudio(f"no Matroska element at byte {start}")
    if start + length > len(data):
        raise _cut(start + length - len(data))
    value = int.from_bytes(data[start : start + length])
    if keep_marker:
        return value, start + length
    ones = (1 << 7 * length) - 1
    return (None if value & ones == ones else value & ones), start + length


def _check_adts(data: Blob) -> None:
    position = _end_of_id3(data)
    while position < len(data) and data[position : position + 3] != b"TAG":
        size = _adts_bytes(data, position)
        if not size:
            raise UndecodableAudio(f"no ADTS frame at byte {position}")
        position += size
        if position > len(data):
            raise _cut(position - len(data))


def _adts_bytes(data: Blob, position: int) -> int:
    """Length of the ADTS frame at this position, or 0 (ISO/IEC 14496-3, table 1.A.6)."""
    head = data[position : position + 6]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else 0


def _end_of_id3(data: Blob) -> int:
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def _cut(missing: int, cure: str = "") -> SampleError:
    return TruncatedAudio(f"the container claims {missing} bytes more than there are{cure}")


_CHECKS: dict[str | None, Callable[[Blob], None]] = {
    "mov": _check_mov,
    "matroska": _check_matroska,
    "aac": _check_adts,
}
