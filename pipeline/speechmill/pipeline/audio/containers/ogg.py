"""Ogg (RFC 3533): its pages, and the links of a chain."""

import struct
import zlib
from itertools import pairwise

from speechmill.pipeline.audio.containers.held import cut, refuse_tail
from speechmill.pipeline.blob import Blob, section
from speechmill.pipeline.errors import TruncatedAudio, UndecodableAudio

_BEGIN, _END = 2, 4  # flags of a page
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_links(data: Blob) -> list[Blob]:
    """The links of a chain (section 4): each is an Ogg file of its own, and usually there is one.

    Raises unless the pages are complete, have the right checksums and consecutive numbers, and the
    last one of each link is marked as the end.
    """
    begins = [0]
    numbers: dict[int, int] = {}  # of the last page of each stream of this link
    position, flags = 0, _BEGIN
    while position < len(data):
        if not any(data[position : position + 4]):
            refuse_tail(data, position)
            break
        page, before = _page(data, position), flags
        flags, serial, number = struct.unpack_from("<5xB8xII", page)
        if flags & _BEGIN and not before & _BEGIN:
            _refuse_open_end(before)
            begins.append(position)
            numbers = {}
        if serial in numbers and number != numbers[serial] + 1:
            raise UndecodableAudio(f"Ogg page {number} follows {numbers[serial]}")
        numbers[serial] = number
        position += len(page)
    _refuse_open_end(flags)
    return [section(data, *bounds) for bounds in pairwise([*begins, position])]


def stated_samples(data: Blob) -> int | None:
    """Samples of each channel by the last page, for the codecs that count them from 0; else None.

    Vorbis and Opus also count what comes before the audio, and libsndfile knows that.
    """
    first = 28 + (data[26] if len(data) > 26 else 0)
    counts = data[first - 1 : first + 4] == b"\x7fFLAC" or data[first - 1 : first + 7] == b"Speex  "
    last = data.rfind(b"OggS")
    granule = int.from_bytes(data[last + 6 : last + 14], "little", signed=True)
    return granule if counts and granule > 0 else None


def _page(data: Blob, position: int) -> bytes:
    if data[position : position + 4] != b"OggS":
        raise UndecodableAudio(f"no Ogg page at byte {position}")
    header = data[position : position + 27 + 255]
    size = 27 + sum(header[27 : 27 + header[26]]) + header[26] if len(header) > 27 else 27
    if position + size > len(data):
        raise cut(position + size - len(data))
    page = data[position : position + size]
    if _checksum(page) != int.from_bytes(page[22:26], "little"):
        raise UndecodableAudio(f"the checksum of the Ogg page at byte {position} is wrong")
    return page


def _checksum(page: bytes) -> int:
    """CRC-32 with the bit order of zlib's reversed, without inversion (section 6)."""
    blank = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")


def _refuse_open_end(flags: int) -> None:
    if not flags & _END:
        raise TruncatedAudio("the last Ogg page is not marked as the end")
