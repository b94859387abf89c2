"""WMA (Advanced Systems Format, version 1.2, section 2)."""

from speechmill.pipeline.audio.containers.held import Held, cut, joined
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import UndecodableAudio

_HEAD = 24  # bytes of an object's id and size
_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")  # id of the object that comes first


def check_asf(data: Blob) -> Held:
    """Objects must follow each other up to the last byte."""
    position = 0
    while position < len(data):
        if position and data[position : position + len(_HEADER)] == _HEADER:
            raise joined(position)
        head = data[position : position + _HEAD]
        size = int.from_bytes(head[16:], "little")
        if len(head) < _HEAD:
            raise cut(_HEAD - len(head))
        if size < _HEAD:
            raise UndecodableAudio(f"an object of {size} bytes at byte {position}; a live stream?")
        position += size
    if position > len(data):
        raise cut(position - len(data))
    return Held()
