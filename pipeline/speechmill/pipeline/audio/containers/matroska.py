"""WebM and Matroska (RFC 8794 and 9559)."""

from speechmill.pipeline.audio.containers.held import Held, cut, joined
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import UndecodableAudio

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675  # ids of elements
_INFO, _DURATION = 0x1549A966, 0x4489
_SIMPLE_BLOCK = 0xA3
_ANYWHERE = {0xEC, 0xBF}  # what fills space, and a checksum
# In a cluster: its time, place, previous size and silent tracks, and its blocks.
_IN_CLUSTER = {0xE7, 0xA7, 0xAB, 0x5854, 0xA0, 0xA3, 0xAF}
# In a segment: an index, what the file is, tracks, cues, attachments, chapters and tags.
_IN_SEGMENT = {
    *(0x114D9B74, _INFO, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
    *(_EBML, _SEGMENT, _CLUSTER),
}


def check_matroska(data: Blob) -> Held:
    """Elements must follow each other up to the last byte, in clusters too.

    The size of a segment or cluster may be unknown, as in live recordings: such a cluster ends at
    the next element of the segment.
    """
    position, end_of_cluster, is_live, states_length = 0, 0, False, False
    while position < len(data):
        start = position
        kind, position = _number(data, position, keep_marker=True)
        size, position = _number(data, position)
        end = len(data) if size is None else position + size
        in_cluster = start < end_of_cluster and not (is_live and kind in _IN_SEGMENT)
        if kind == _EBML and start:
            raise joined(start)
        if end > len(data):
            raise cut(end - len(data))
        if not _may_stand(kind, size, in_cluster) or (in_cluster and end > end_of_cluster):
            raise UndecodableAudio(f"the Matroska element {kind:x} at byte {start} is damaged")
        if kind == _INFO:
            states_length = _DURATION in _kinds(data, position, end)
        if kind == _CLUSTER:
            end_of_cluster, is_live = end, size is None
            position = _after_blocks(data, position, end)
        elif kind != _SEGMENT:
            position = _after_blocks(data, end, end_of_cluster)
    return Held(states_length=states_length)


def _after_blocks(data: Blob, position: int, end: int) -> int:
    """Pass over the whole blocks of a cluster whose sizes take up to two bytes.

    Nearly all elements are such blocks, and this takes a fifth of the time.
    """
    while position + 3 <= end and data[position] == _SIMPLE_BLOCK:
        first, second = data[position + 1], data[position + 2]
        if first < 0x40 or first == 0xFF or (first, second) == (0x7F, 0xFF):
            break  # of more bytes, or unknown
        if first & 0x80:
            following = position + 2 + (first & 0x7F)
        else:
            following = position + 3 + ((first & 0x3F) << 8 | second)
        if following > end:
            break
        position = following
    return position


def _may_stand(kind: int | None, size: int | None, in_cluster: bool) -> bool:
    if size is None and kind not in (_SEGMENT, _CLUSTER):
        return False
    return kind in _ANYWHERE or kind in (_IN_CLUSTER if in_cluster else _IN_SEGMENT)


def _kinds(data: Blob, position: int, end: int) -> set[int | None]:
    """The ids of the elements in another."""
    kinds = set()
    while position < end:
        kind, position = _number(data, position, keep_marker=True)
        size, position = _number(data, position)
        position += size or 0
        kinds.add(kind)
    return kinds


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
