"""Encoded audio as a stream of blocks, so that memory does not grow with the recording."""

import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import soundfile

from speechmill.pipeline.audio.ffmpeg import read_with_ffmpeg
from speechmill.pipeline.audio.flac import flac_header, read_flac
from speechmill.pipeline.audio.integrity import check_whole, ffmpeg_format
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import (
    EmptyAudio,
    OversizedAudio,
    TruncatedAudio,
    UndecodableAudio,
    UnsuitableAudio,
)

Samples = npt.NDArray[Any]  # int16 or float32

BLOCK = 2**20  # samples of each channel
SAMPLE_RATES = range(2_000, 384_001)  # Hz; another rate counts as damage
_AT_ONCE = 8 * BLOCK  # samples of all channels, for a decoder that cannot decode in blocks
_UNKNOWN_LENGTH = 2**63 - 1  # frames, by libsndfile, of a FLAC that was written to a pipe
_MP3_TAG = 2**16  # bytes that contain the Xing or Info tag, which follows an ID3 tag


@dataclass
class Limits:
    """The most that a sample may cost; beyond these limits it is rejected."""

    member_mb: float = 2048.0  # MB of one tar member, and of all members of a sample
    metadata_mb: float = 16.0  # MB of a sample's .json, and of its .txt
    seconds: float = 3600.0  # of audio
    decoded_mb: float = 8192.0  # MB of decoded audio: 4 bytes a sample, of all channels
    decode_seconds: float = 300.0  # s of decoding
    memory_mb: float = 4096.0  # MB of decoding, on top of the memory of the process


@dataclass(frozen=True, slots=True)
class Source:
    """One recording, as its file stores it."""

    sample_rate: int  # Hz
    num_channels: int
    blocks: Iterator[Samples]  # (T, C), int16 where the file is 16-bit PCM of one channel


def open_audio(data: Blob, limits: Limits) -> Source:
    """Start to decode WAV, FLAC, MP3, Ogg, AIFF, AAC, M4A, MP4, WebM or a similar format.

    Raises a `SampleError` for a file that is damaged or over the limits, here or while the blocks
    are read; the blocks before the error must not be used.
    """
    if (header := flac_header(data)) and header.num_samples * header.num_channels <= _AT_ONCE:
        rate, channels = header.sample_rate, header.num_channels
        _check_size(header.num_samples, rate, channels, limits, "the header claims")
        samples_TC = read_flac(data, header)
        return Source(rate, channels, iter([samples_TC if channels == 1 else to_float(samples_TC)]))
    if demuxer := ffmpeg_format(data):
        check_whole(data)
        return _through_ffmpeg(data, demuxer, limits)
    with _translated():
        file = _Sequential(_stream(data))
    if not _states_length(file, data):
        file.close()
        return _through_ffmpeg(data, file.format.lower(), limits)
    try:
        check_whole(data)
        _check_size(file.frames, file.samplerate, file.channels, limits, "the header claims")
    except Exception:
        file.close()
        raise
    return Source(file.samplerate, file.channels, _sndfile_blocks(file))


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """Never seeks between blocks, since seeking in MP3 is not exact to the sample."""

    def seekable(self) -> bool:
        return False


class _Bytes(io.BytesIO):
    """libsndfile seeks before the start of damaged files, and a callback must not raise."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


def _stream(data: Blob) -> BinaryIO:
    if not isinstance(data, mmap.mmap):
        return _Bytes(data)
    data.seek(0)
    return cast(BinaryIO, data)


def _sndfile_blocks(file: soundfile.SoundFile) -> Iterator[Samples]:
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


def _through_ffmpeg(data: Blob, demuxer: str, limits: Limits) -> Source:
    frames = read_with_ffmpeg(_stream(data), demuxer)
    first = next(frames, None)
    if first is None:
        raise EmptyAudio("0 samples")
    block_TC, rate = first
    num_channels = block_TC.shape[1]
    _check_size(0, rate, num_channels, limits, "there are")
    return Source(rate, num_channels, _ffmpeg_blocks(chain([first], frames), limits))


def _ffmpeg_blocks(frames: Iterator[tuple[Samples, int]], limits: Limits) -> Iterator[Samples]:
    """Join frames to blocks; rate and channels must not change between frames."""
    parts: list[Samples] = []
    held, total, kind = 0, 0, None
    for part_TC, rate in frames:
        kind = kind or (rate, part_TC.shape[1])
        if kind != (rate, part_TC.shape[1]):
            raise UndecodableAudio(f"{kind} Hz and channels become {(rate, part_TC.shape[1])}")
        parts.append(part_TC)
        held += len(part_TC)
        total += len(part_TC)
        if held >= BLOCK:
            _check_size(total, *kind, limits, "there are more than")
            yield np.concatenate(parts)
            parts, held = [], 0
    if parts and kind:
        _check_size(total, *kind, limits, "there are")
        yield np.concatenate(parts)


def to_float(audio: Samples) -> Samples:
    """Samples as float32 in [-1, 1), exactly."""
    return audio / np.float32(32768) if audio.dtype == np.int16 else audio


def step_power(audio_T: Samples, step: int) -> npt.NDArray[np.float64]:
    """power_S: the mean power of each `step` samples, where zeros complete the last step."""
    padded_T = np.pad(to_float(audio_T), (0, -len(audio_T) % step))
    return np.asarray(np.square(padded_T.reshape(-1, step), dtype=np.float64).mean(axis=1))


def _states_length(file: soundfile.SoundFile, data: Blob) -> bool:
    """Whether the file states its length; for an MP3 libsndfile guesses one and stops there."""
    if file.format == "MP3":
        head = data[:_MP3_TAG]
        return b"Xing" in head or b"Info" in head
    return bool(file.frames != _UNKNOWN_LENGTH)


def _check_size(num_samples: int, rate: int, channels: int, limits: Limits, claim: str) -> None:
    """Raise for more audio than the limits allow; `claim` begins the message with its source."""
    if rate not in SAMPLE_RATES:
        raise UnsuitableAudio(f"sample rate {rate} Hz")
    if num_samples / rate > limits.seconds:
        raise OversizedAudio(
            f"{claim} {num_samples} samples, {num_samples / rate:.0f} s; "
            f"limits.seconds is {limits.seconds:g}"
        )
    if (size := num_samples * channels * 4 / 1e6) > limits.decoded_mb:
        raise OversizedAudio(
            f"{claim} {size:.0f} MB of samples; limits.decoded_mb is {limits.decoded_mb:g}"
        )


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of libsndfile into ours, without the address of the buffer in the message."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise UndecodableAudio(str(error.error_string).strip()) from error
