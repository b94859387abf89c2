"""MP4, M4A and QuickTime (ISO/IEC 14496-12)."""

from speechmill.pipeline.audio.containers.held import Held, cut, joined
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import UndecodableAudio

BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free")  # that begin a file
_ONCE = (b"ftyp", b"moov")  # a second one begins a second file


def check_mpeg4(data: Blob) -> Held:
    """Boxes must follow each other up to the last byte (section 4.2)."""
    position = 0
    seen: set[bytes] = set()
    while position < len(data):
        head = data[position : position + 16]
        if len(head) < 8 and any(head):
            raise cut(8 - len(head))
        size, kind = int.from_bytes(head[:4]), head[4:8]
        if kind in _ONCE and kind in seen:
            raise joined(position)
        seen.add(kind)
        if size == 1:
            size = int.from_bytes(head[8:16])
        if size == 0:  # to the end of the file
            return Held()
        if size < 8:
            raise UndecodableAudio(f"a box of {size} bytes at byte {position}")
        position += size
    if position > len(data):
        raise cut(position - len(data))
    return Held()
