"""Formats that are frames, one after the other: AAC in ADTS, AMR and WavPack."""

from speechmill.pipeline.audio.containers.held import Held, cut, refuse_tail
from speechmill.pipeline.audio.containers.tags import end_of_tags
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import UndecodableAudio

# Bytes of a frame by its type, after the byte that names it (RFC 4867, section 5.3; TS 26.101
# and 26.201, annex A); types without an entry are reserved.
_AMR_NB = {0: 12, 1: 13, 2: 15, 3: 17, 4: 19, 5: 20, 6: 26, 7: 31, 8: 5, 15: 0}
_AMR_WB = {0: 17, 1: 23, 2: 32, 3: 36, 4: 40, 5: 46, 6: 50, 7: 58, 8: 60, 9: 5, 14: 0, 15: 0}
_AMR_PADDING = 0b10000011  # bits of that byte that are 0
_AMR = {b"#!AMR\n": (_AMR_NB, 160), b"#!AMR-WB\n": (_AMR_WB, 320)}  # samples of a frame


def check_adts(data: Blob) -> Held:
    """AAC frames must follow each other up to the last byte; tags may stand between them."""
    position = 0
    while position < len(data):
        size = adts_bytes(data, position)
        if not size:
            end = end_of_tags(data, position)
            if end == position:
                refuse_tail(data, position)
                break
            position = end
            continue
        position += size
        if position > len(data):
            raise cut(position - len(data))
    return Held(end=position)


def adts_bytes(data: Blob, position: int) -> int:
    """Length of the ADTS frame at this position, or 0 (ISO/IEC 14496-3, table 1.A.6)."""
    head = data[position : position + 6]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else 0


def check_wavpack(data: Blob) -> Held:
    """Blocks must follow each other up to the last byte (WavPack 4 and 5, header of a block)."""
    position = 0
    while data[position : position + 4] == b"wvpk":
        position += 8 + int.from_bytes(data[position + 4 : position + 8], "little")
    if position > len(data):
        raise cut(position - len(data))
    refuse_tail(data, end_of_tags(data, position))
    total = int.from_bytes(data[12:16], "little")
    return Held(num_samples=None if total == 0xFFFFFFFF else total, end=position)


def check_amr(data: Blob) -> Held:
    """AMR frames must follow each other up to the last byte; each holds 20 ms."""
    magic = next((magic for magic in _AMR if data[: len(magic)] == magic), None)
    if magic is None:
        raise UndecodableAudio("AMR of several channels is not supported")
    sizes, samples = _AMR[magic]
    position, num_frames = len(magic), 0
    padding = len(data[:].rstrip(b"\0"))  # zeros would be frames of lost speech
    while position < len(data):
        head = data[position]
        kind = head >> 3 & 15
        if kind not in sizes or head & _AMR_PADDING or position >= padding:
            raise UndecodableAudio(f"no AMR frame at byte {position}")
        position += 1 + sizes[kind]
        num_frames += 1
    if position > len(data):
        raise cut(position - len(data))
    return Held(num_samples=num_frames * samples)
