"""Audio that libsndfile decodes, block by block."""

import io
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile

from speechmill.pipeline.audio.containers.held import Held
from speechmill.pipeline.audio.containers.recognize import Recording
from speechmill.pipeline.audio.samples import BLOCK, Limits, Samples, Source, check_size
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import TruncatedAudio, UndecodableAudio

# Bytes of a sample by libsndfile's name of the coding; 24 bits may be stored in 32.
_WIDTHS = {
    **dict.fromkeys(("PCM_S8", "PCM_U8", "ULAW", "ALAW"), (1,)),
    "PCM_16": (2,),
    "PCM_24": (3, 4),
    **dict.fromkeys(("PCM_32", "FLOAT"), (4,)),
    "DOUBLE": (8,),
}
# A container states the samples of these codings too; of others it counts packets.
_COUNTED = ("DWVW_12", "DWVW_16", "DWVW_24", "ALAC_16", "ALAC_20", "ALAC_24", "ALAC_32")


def read_with_libsndfile(recording: Recording, limits: Limits) -> Source:
    """Decode a recording.

    Raises `UndecodableAudio` if libsndfile cannot open it, or if it finds fewer samples than the
    container holds.
    """
    with _translated():
        first = _Sequential(stream_of(recording.links[0]))
    try:
        check_size(first.frames, first.samplerate, first.channels, limits, "the header claims")
        _refuse_fewer(first, recording.held)
    except Exception:
        first.close()
        raise
    return Source(first.samplerate, first.channels, _all_blocks(first, recording.links[1:], limits))


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """Never seeks between blocks, since seeking in MP3 is not exact to the sample."""

    def seekable(self) -> bool:
        return False

    @cached_property
    def subtype(self) -> str:
        """The coding; soundfile takes 10 µs for it, each time."""
        return str(super().subtype)


class _Bytes(io.BytesIO):
    """libsndfile seeks before the start of damaged files, and a callback must not raise."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


class _Mapped(io.RawIOBase):
    """A mapped file that may be sought beyond its end, as decoders do in damaged files."""

    def __init__(self, data: mmap.mmap):
        self._data, self._position = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._data[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._data)}
        self._position = max(0, begin[whence] + offset)
        return self._position


def stream_of(data: Blob) -> BinaryIO:
    """The data as a file at its start."""
    stream = _Mapped(data) if isinstance(data, mmap.mmap) else _Bytes(data)
    return cast(BinaryIO, stream)


def _refuse_fewer(file: soundfile.SoundFile, held: Held) -> None:
    if held.audio_bytes is not None and file.subtype in _WIDTHS:
        widths = [width * file.channels for width in _WIDTHS[file.subtype]]
        there_are = [held.audio_bytes // width for width in widths]
        if file.frames not in there_are:
            raise UndecodableAudio(
                f"the header claims {file.frames} samples, there are {there_are[0]}"
            )
    is_counted = held.num_samples is not None and file.subtype in (*_WIDTHS, *_COUNTED)
    if is_counted and file.frames != held.num_samples:
        raise UndecodableAudio(
            f"the header claims {held.num_samples} samples, there are {file.frames}"
        )


def _all_blocks(
    first: soundfile.SoundFile, others: Sequence[Blob], limits: Limits
) -> Iterator[Samples]:
    yield from _blocks(first)
    total, kind = first.frames, (first.samplerate, first.channels)
    for link in others:
        with _translated():
            file = _Sequential(stream_of(link))
        if (file.samplerate, file.channels) != kind:
            changed = (file.samplerate, file.channels)
            raise UndecodableAudio(f"{kind} Hz and channels become {changed}")
        total += file.frames
        check_size(total, *kind, limits, "there are")
        yield from _blocks(file)


def _blocks(file: soundfile.SoundFile) -> Iterator[Samples]:
    # libsndfile returns zeros for float WAV read as int16.
    dtype = "int16" if file.subtype == "PCM_16" and file.channels == 1 else "float32"
    num_samples = 0
    with file, _translated():
        while True:
            wanted = min(BLOCK, file.frames - num_samples)
            block_TC = np.asarray(file.read(wanted, dtype=dtype, always_2d=True))
            num_samples += len(block_TC)
            if len(block_TC):
                yield block_TC
            if len(block_TC) < wanted:
                raise TruncatedAudio(
                    f"the header claims {file.frames} samples, the body holds {num_samples}"
                )
            if num_samples == file.frames:
                return


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of libsndfile into ours, without the address of the buffer in the message."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise UndecodableAudio(str(error.error_string).strip()) from error
