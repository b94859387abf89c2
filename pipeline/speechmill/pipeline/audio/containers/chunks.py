"""Formats that are a row of chunks: WAV, RF64, AIFF, CAF and Sony Wave64."""

import struct
from dataclasses import dataclass

from speechmill.pipeline.audio.containers.held import Held, cut, joined, refuse_tail, unexplained
from speechmill.pipeline.audio.containers.tags import end_of_tags
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import UndecodableAudio

_PIPE = "; if it was written to a pipe, write it to a file instead"
_TO_THE_END = -1  # size of the data chunk of a CAF that is still being written


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a format arranges its chunks, one after the other."""

    first: int  # byte of the first chunk
    head: str  # of a chunk: name and size, for `struct`
    audio: bytes  # name of the chunk of samples
    before_samples: int = 0  # bytes of that chunk
    align: int = 2
    size_counts_head: bool = False
    cure: str = ""


_WAV = _Layout(12, "<4sI", b"data", cure=_PIPE)
_LAYOUTS = {
    b"RIFF": _WAV,
    b"RIFX": _Layout(12, ">4sI", b"data", cure=_PIPE),
    b"RF64": _WAV,
    b"FORM": _Layout(12, ">4sI", b"SSND", before_samples=8),
    b"caff": _Layout(8, ">4sq", b"data", before_samples=4, align=1),
    b"riff": _Layout(40, "<4s12xq", b"data", align=8, size_counts_head=True),
}


@dataclass(frozen=True, slots=True)
class _Chunk:
    name: bytes
    body: int  # byte at which its content begins
    end: int  # byte after its content


def check_chunks(data: Blob) -> Held:
    """Follow the chunks up to the last byte."""
    layout = _LAYOUTS[data[:4]]
    if data[:4] == b"FORM" and data[8:12] not in (b"AIFF", b"AIFC"):
        raise UndecodableAudio(f"IFF of type {data[8:12]!r} is not supported; convert it to FLAC")
    position, large = layout.first, 0  # size of the data chunk of RF64: 32 bits are too few
    audio: _Chunk | None = None
    end = position
    while position < len(data):
        chunk = _chunk_at(data, position, layout, large)
        if chunk is None or (audio and chunk.end > len(data)):
            end = _tail_begins(data, position, audio)
            refuse_tail(data, end_of_tags(data, end))
            break
        if chunk.name in _LAYOUTS:
            raise joined(position)
        if chunk.end > len(data):
            raise cut(chunk.end - len(data), layout.cure)
        if chunk.name == b"ds64":
            large = int.from_bytes(data[chunk.body + 8 : chunk.body + 16], "little")
        if chunk.name == layout.audio:
            if audio:
                raise unexplained(data, position)
            audio = chunk
        # The padding follows a chunk even if its size counts the head.
        end = position = chunk.end + -chunk.end % layout.align
    if audio is None:
        raise UndecodableAudio(f"there is no chunk {layout.audio.decode()!r} of samples")
    num_bytes = max(0, audio.end - audio.body - layout.before_samples)
    return Held(num_bytes, end=end)


def _chunk_at(data: Blob, position: int, layout: _Layout, large: int) -> _Chunk | None:
    """The chunk at a position, or None for bytes that are not the head of a chunk."""
    head = struct.calcsize(layout.head)
    if position + head > len(data):
        return None
    name: bytes
    size: int
    name, size = struct.unpack_from(layout.head, data, position)
    if not all(0x20 <= byte < 0x7F for byte in name):
        return None
    body = position + head
    if name == layout.audio and size == _TO_THE_END:
        return _Chunk(name, body, len(data))
    if name == layout.audio and large and size == 0xFFFFFFFF:
        size = large
    size -= head if layout.size_counts_head else 0
    return _Chunk(name, body, body + size) if size >= 0 else None


def _tail_begins(data: Blob, position: int, audio: _Chunk | None) -> int:
    """Where the bytes begin that no chunk explains; some writers leave out the padding."""
    if audio and position == audio.end + 1 and data[audio.end : audio.end + 1] != b"\0":
        return audio.end
    return position
