"""WMA (Advanced Systems Format, version 1.2, sections 2, 3.2 and 5)."""

from speechmill.pipeline.audio.containers.held import Held, cut, joined
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import UndecodableAudio

_HEAD = 24  # bytes of an object's id and size
# Ids of the object that comes first, of one in it, and of the object of packets.
_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_WAVE64 = b"riff"  # a file whose chunks are like objects
_SIZES = slice(92, 100)  # of the properties: the least and the largest size of a packet
_BEFORE_PACKETS = 50  # bytes of the object of packets


def check_asf(data: Blob) -> Held:
    """Objects must follow each other up to the last byte."""
    position = packet_size = 0
    while position < len(data):
        kind = data[position : position + len(_HEADER)]
        if position and kind[:4] in (_HEADER[:4], _WAVE64):
            raise joined(position)
        head = data[position : position + _HEAD]
        size = int.from_bytes(head[16:], "little")
        if len(head) < _HEAD:
            raise cut(_HEAD - len(head))
        if size < _HEAD:
            raise UndecodableAudio(f"an object of {size} bytes at byte {position}; a live stream?")
        if position + size > len(data):
            raise cut(position + size - len(data))
        if not position:
            packet_size = _packet_size(data[:size])
        if kind == _DATA:
            _check_packets(data, position + _BEFORE_PACKETS, position + size, packet_size)
        position += size
    return Held()


def _packet_size(header: bytes) -> int:
    """Bytes of every packet; 0 if they have no common size."""
    properties = header.find(_PROPERTIES)
    sizes = header[properties:][_SIZES] if properties >= 0 else b""
    return int.from_bytes(sizes[:4], "little") if sizes[:4] == sizes[4:] else 0


def _check_packets(data: Blob, start: int, stop: int, size: int) -> None:
    """FFmpeg passes over packets of zeros, with which a broken copy ends; no packet begins so."""
    for position in range(start, stop, size or stop):
        if data[position : position + 2] == b"\0\0":
            raise UndecodableAudio(f"no packet at byte {position}, but zeros")
