"""Ogg (RFC 3533): its pages, and the links of a chain."""

import struct
import zlib
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from speechmill.pipeline.audio.containers.held import cut, refuse_tail
from speechmill.pipeline.blob import Blob, section
from speechmill.pipeline.errors import TruncatedAudio, UndecodableAudio

_CONTINUED, _BEGIN, _END = 1, 2, 4  # flags of a page
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
        page, before = _checked_page(data, position), flags
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


class Page(NamedTuple):
    """The packets of a stream that end on one page."""

    packets: list[bytes]
    granule: int  # where the last of them ends, by the clock of the codec


def first_packet(link: Blob) -> bytes:
    """The packet that begins the first stream of a checked link."""
    page = next(_pages(link), b"")
    return page[27 + page[26] :] if page else b""


def packet_pages(link: Blob) -> Iterator[Page]:
    """The pages of the first stream of a checked link on which packets end."""
    serial, packet = link[14:18], b""
    for page in _pages(link):
        if page[14:18] != serial:
            continue
        if bool(page[5] & _CONTINUED) != bool(packet):
            raise UndecodableAudio("an Ogg page does not continue the packet before it")
        body = 27 + page[26]
        packets, start, end = [], body, body
        for size in page[27:body]:
            end += size
            if size < 255:
                packets.append(packet + page[start:end])
                packet, start = b"", end
        packet += page[start:end]
        if packets:
            yield Page(packets, _granule(page))
    if packet:
        raise TruncatedAudio("the last packet of the Ogg file is cut")


def last_granule(link: Blob) -> int:
    """Where the last packet of the first stream of a checked link ends, by its codec's clock."""
    pages = (page for page in _pages(link) if page[14:18] == link[14:18])
    return deque([0, *(_granule(page) for page in pages if _granule(page) > 0)], maxlen=1)[0]


def stated_samples(data: Blob) -> int | None:
    """Samples of each channel by the last page, for the codecs that count them from 0; else None.

    Vorbis and Opus also count what comes before the audio, and libsndfile knows that.
    """
    first = 28 + (data[26] if len(data) > 26 else 0)
    counts = data[first - 1 : first + 4] == b"\x7fFLAC" or data[first - 1 : first + 7] == b"Speex  "
    granule = _granule(data[data.rfind(b"OggS") :][:27])
    return granule if counts and granule > 0 else None


def _granule(page: bytes) -> int:
    return int.from_bytes(page[6:14], "little", signed=True)


def _pages(link: Blob) -> Iterator[bytes]:
    """The pages of a checked link."""
    position = 0
    while position < len(link):
        page = _page_at(link, position)
        yield page
        position += len(page)


def _checked_page(data: Blob, position: int) -> bytes:
    page = _page_at(data, position)
    if _checksum(page) != int.from_bytes(page[22:26], "little"):
        raise UndecodableAudio(f"the checksum of the Ogg page at byte {position} is wrong")
    return page


def _page_at(data: Blob, position: int) -> bytes:
    if data[position : position + 4] != b"OggS":
        raise UndecodableAudio(f"no Ogg page at byte {position}")
    header = data[position : position + 27 + 255]
    size = 27 + sum(header[27 : 27 + header[26]]) + header[26] if len(header) > 27 else 27
    if position + size > len(data):
        raise cut(position + size - len(data))
    return data[position : position + size]


def _checksum(page: bytes) -> int:
    """CRC-32 with the bit order of zlib's reversed, without inversion (section 6)."""
    blank = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")


def _refuse_open_end(flags: int) -> None:
    if not flags & _END:
        raise TruncatedAudio("the last Ogg page is not marked as the end")
