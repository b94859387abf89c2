"""Tags that may stand before, behind or between the frames of any audio file."""

import re

from speechmill.pipeline.blob import Blob

_ID3V1 = 128
_ID3V1_EXTENDED = 227  # "TAG+", in front of an ID3v1 tag
_LYRICS3 = b"LYRICSBEGIN"
_LONGEST_LYRICS = 10**6
_END_OF_LYRICS = re.compile(rb"LYRICS(?:200|END)")


def end_of_tags(data: Blob, position: int = 0) -> int:
    """The byte after all the tags that begin here; beyond the end of the data for a cut tag."""
    while size := tag_bytes(data, position):
        position += size
    return position


def tag_bytes(data: Blob, position: int) -> int:
    """Size of the ID3, APE or Lyrics3 tag at a position; 0 if there is none."""
    head = data[position : position + 32]
    if head[:3] == b"ID3":
        return _id3v2_bytes(head)
    if head[:4] == b"TAG+":
        return _ID3V1_EXTENDED
    if head[:3] == b"TAG":
        return _ID3V1
    if head[:8] == b"APETAGEX" and len(head) == 32:
        # The size covers the items and the footer; flag 31 of a header says that it is one.
        is_header = head[23] & 0x20
        return int.from_bytes(head[12:16], "little") + 32 if is_header else 32
    if head[:11] == _LYRICS3:
        return _lyrics_bytes(data, position)
    return 0


def _id3v2_bytes(head: bytes) -> int:
    """Size by its header (ID3v2.4, section 3.1): 28 bits, without header and footer."""
    sizes = head[6:10]
    if len(sizes) < 4 or max(sizes) > 0x7F or 0xFF in head[3:5]:
        return 0
    size = 0
    for byte in sizes:
        size = size << 7 | byte
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _lyrics_bytes(data: Blob, position: int) -> int:
    end = _END_OF_LYRICS.search(data, position, position + _LONGEST_LYRICS)
    return end.end() - position if end else 0
