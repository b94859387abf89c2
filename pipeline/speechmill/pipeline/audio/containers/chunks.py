"""Formats that are a row of chunks: WAV, RF64, AIFF, CAF and Sony Wave64."""

import struct
from dataclasses import dataclass

from speechmill.pipeline.audio.containers.held import (
    PIPE,
    Held,
    cut,
    endless,
    joined,
    refuse_tail,
    unexplained,
)
from speechmill.pipeline.audio.containers.tags import end_of_tags
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import UndecodableAudio

_MPEG = (0x50, 0x55)  # codings of a WAV: MPEG audio of layers I and II, and of layer III
_AFTER_TYPE = 12  # first chunk of the formats that state a type
_TYPES = (b"WAVE", b"AIFF", b"AIFC")
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


_WAV = _Layout(_AFTER_TYPE, "<4sI", b"data", cure=PIPE)
_LAYOUTS = {
    b"RIFF": _WAV,
    b"RIFX": _Layout(_AFTER_TYPE, ">4sI", b"data", cure=PIPE),
    b"RF64": _WAV,
    b"FORM": _Layout(_AFTER_TYPE, ">4sI", b"SSND", before_samples=8),
    b"caff": _Layout(8, ">4sq", b"data", before_samples=4, align=1),
    b"riff": _Layout(40, "<4s12xq", b"data", align=8, size_counts_head=True, cure=PIPE),
}

_FILES = (*_LAYOUTS, b"fLaC", b"OggS", b"wvpk", b"NIST")  # that look like chunks


@dataclass(frozen=True, slots=True)
class _Chunk:
    name: bytes
    body: int  # byte at which its content begins
    end: int  # byte after its content


def check_chunks(data: Blob) -> Held:
    """Follow the chunks up to the last byte."""
    layout, chunks, end = _walk(data)
    audio = chunks[layout.audio]
    num_bytes = max(0, audio.end - audio.body - layout.before_samples)
    if data[:4] == b"FORM":  # the samples may begin later, on a block of a disk
        num_bytes -= int.from_bytes(data[audio.body : audio.body + 4])
    mp3 = (audio.body, audio.end) if num_bytes and _holds_mp3(data, chunks) else None
    return Held(num_bytes, _num_samples(data, chunks), mp3, end)


def _num_samples(data: Blob, chunks: dict[bytes, _Chunk]) -> int | None:
    """Samples of each channel by another chunk than that of the samples, if it states them."""
    common = chunks.get(b"COMM")
    if data[:4] == b"FORM" and common:
        return int.from_bytes(data[common.body + 2 : common.body + 6])
    return _samples_of_packets(data, chunks)


def _samples_of_packets(data: Blob, chunks: dict[bytes, _Chunk]) -> int | None:
    """Samples by the packet table of a CAF, if its writer filled in how the last packet ends."""
    table = chunks.get(b"pakt")
    if data[:4] != b"caff" or table is None or table.end - table.body < 24:
        return None
    valid, _, remainder = struct.unpack_from(">qii", data, table.body + 8)
    return valid if remainder > 0 else None


def _holds_mp3(data: Blob, chunks: dict[bytes, _Chunk]) -> bool:
    """Whether the audio of a WAV is an MP3, as call recorders write it."""
    form = chunks.get(b"fmt ")
    if data[:4] not in (b"RIFF", b"RF64") or form is None:
        return False
    return int.from_bytes(data[form.body : form.body + 2], "little") in _MPEG


def _walk(data: Blob) -> tuple[_Layout, dict[bytes, _Chunk], int]:
    """The chunks by name, and the byte after the last one and its padding."""
    layout = _LAYOUTS[data[:4]]
    if layout.first == _AFTER_TYPE and data[8:12] not in _TYPES:
        name, kind = data[:4].decode(), data[8:12]
        raise UndecodableAudio(f"{name} of type {kind!r} is not supported; convert it to FLAC")
    end = position = layout.first
    large = 0  # size of the data chunk of RF64: 32 bits are too few
    chunks: dict[bytes, _Chunk] = {}
    while position < len(data):
        chunk = _chunk_at(data, position, layout, large)
        audio = chunks.get(layout.audio)
        if chunk is None or (audio and chunk.end > len(data)):
            end = _tail_begins(data, position, audio)
            if end < position and _chunk_at(data, end, layout, large):
                position = end
                continue
            refuse_tail(data, end_of_tags(data, end))
            break
        if chunk.name in _FILES:
            raise joined(position)
        if chunk.end > len(data):
            raise cut(chunk.end - len(data), layout.cure)
        if chunk.name == b"ds64":
            large = int.from_bytes(data[chunk.body + 8 : chunk.body + 16], "little")
        if chunk.name == layout.audio and audio:
            raise unexplained(data, position)
        chunks.setdefault(chunk.name, chunk)
        end = position = chunk.end + (chunk.body - chunk.end) % layout.align
    if layout.audio not in chunks:
        raise UndecodableAudio(f"there is no chunk {layout.audio.decode()!r} of samples")
    return layout, chunks, end


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
        raise endless("CAF")
    if name == layout.audio and large and size == 0xFFFFFFFF:
        size = large
    size -= head if layout.size_counts_head else 0
    return _Chunk(name, body, body + size) if size >= 0 else None


def _tail_begins(data: Blob, position: int, audio: _Chunk | None) -> int:
    """Where the bytes begin that no chunk explains; some writers leave out the padding."""
    if audio and position == audio.end + 1 and data[audio.end : audio.end + 1] != b"\0":
        return audio.end
    return position
