"""WebM and Matroska (RFC 8794 and 9559)."""

from speechmill.pipeline.audio.containers.held import Held, cut, joined
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import UndecodableAudio

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675  # ids of elements
# Ids in a cluster: its time, place, previous size and silent tracks, blocks, padding and checksum.
_IN_CLUSTER = {0xE7, 0xA7, 0xAB, 0x5854, 0xA0, 0xA3, 0xAF, 0xEC, 0xBF}


def check_matroska(data: Blob) -> Held:
    """Elements must follow each other up to the last byte, in clusters too.

    The size of a segment or cluster may be unknown, as in live recordings.
    """
    position = end_of_cluster = 0
    while position < len(data):
        start = position
        kind, position = _number(data, position, keep_marker=True)
        size, position = _number(data, position)
        if kind == _EBML and start:
            raise joined(start)
        if size is None:
            if kind not in (_SEGMENT, _CLUSTER):
                unknown = f"element {kind:x} before byte {position} has an unknown size"
                raise UndecodableAudio(unknown)
            continue
        if position + size > len(data):
            raise cut(position + size - len(data))
        if start < end_of_cluster and (kind not in _IN_CLUSTER or position + size > end_of_cluster):
            raise UndecodableAudio(f"element {kind:x} at byte {start} does not fit into a cluster")
        if kind == _CLUSTER:
            end_of_cluster = position + size
        elif kind != _SEGMENT:
            position += size
    return Held()


def _number(data: Blob, start: int, keep_marker: bool = False) -> tuple[int | None, int]:
    """A number of variable length and its end; None if all its bits are set."""
    first = data[start] if start < len(data) else 0
    length = 9 - first.bit_length()
    if not first:
        raise UndecodableAudio(f"no Matroska element at byte {start}")
    if start + length > len(data):
        raise cut(start + length - len(data))
    value = int.from_bytes(data[start : start + length])
    if keep_marker:
        return value, start + length
    ones = (1 << 7 * length) - 1
    return (None if value & ones == ones else value & ones), start + length
