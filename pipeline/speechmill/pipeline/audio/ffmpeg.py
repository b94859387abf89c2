"""Audio that the FFmpeg in PyAV decodes."""

from collections.abc import Generator, Iterator
from itertools import chain
from typing import Any, BinaryIO

import av
import numpy as np

from speechmill.pipeline.audio.containers.held import Held
from speechmill.pipeline.audio.samples import BLOCK, Limits, Samples, Source, check_size
from speechmill.pipeline.errors import EmptyAudio, TruncatedAudio, UndecodableAudio

_LENGTH_IS_STATED = ("mov", "matroska")  # for other containers FFmpeg estimates the length
_TAIL = 0.1  # s of an encoder's padding that the stated length may include


def read_with_ffmpeg(stream: BinaryIO, demuxer: str, held: Held, limits: Limits) -> Source:
    """Decode the first audio stream of a container.

    Raises `UndecodableAudio` at the first damaged frame, which FFmpeg would otherwise conceal, and
    `TruncatedAudio` at the end if there were fewer samples than the container holds.
    """
    frames = _frames(stream, demuxer, held)
    first = next(frames, None)
    if first is None:
        raise EmptyAudio("0 samples")
    block_TC, rate = first
    num_channels = block_TC.shape[1]
    check_size(0, rate, num_channels, limits, "there are")
    parts = (part_TC for part_TC, _ in chain([first], frames))
    return Source(rate, num_channels, _blocks(parts, rate, num_channels, limits))


def _blocks(
    frames: Iterator[Samples], rate: int, num_channels: int, limits: Limits
) -> Iterator[Samples]:
    """Join frames to blocks."""
    parts: list[Samples] = []
    held, total = 0, 0
    for part_TC in frames:
        parts.append(part_TC)
        held += len(part_TC)
        total += len(part_TC)
        if held >= BLOCK:
            check_size(total, rate, num_channels, limits, "there are more than")
            yield np.concatenate(parts)
            parts, held = [], 0
    if parts:
        check_size(total, rate, num_channels, limits, "there are")
        yield np.concatenate(parts)


def _frames(stream: BinaryIO, demuxer: str, held: Held) -> Iterator[tuple[Samples, int]]:
    """Frames of float32 samples of shape (T, C), each with its rate in Hz."""
    try:
        with av.open(stream, format=demuxer, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise UndecodableAudio(f"no audio among {len(container.streams)} streams")
            audio = container.streams.audio[0]
            if audio.codec_context is None:
                raise UndecodableAudio("FFmpeg has no decoder for the audio stream")
            audio.codec_context.options = {"err_detect": "crccheck+explode"}
            num_samples = yield from _decoded(container, audio, demuxer)
    except av.FFmpegError as error:
        raise UndecodableAudio(f"FFmpeg: {error.strerror}") from error
    if held.num_samples is not None and num_samples < held.num_samples:
        raise TruncatedAudio(f"the frames hold {held.num_samples} samples, {num_samples} came out")


def _decoded(
    container: Any, stream: Any, demuxer: str
) -> Generator[tuple[Samples, int], None, int]:
    """The frames; returns the number of samples of each channel."""
    interleaved = av.AudioResampler(format="flt")
    num_samples, seconds = 0, 0.0
    due: float | None = None  # s, when the next frame must begin
    kind: tuple[int, int] | None = None
    for frame in container.decode(stream):
        found = (frame.rate, frame.layout.nb_channels)
        if found != (kind or found):
            raise UndecodableAudio(f"{kind} Hz and channels become {found}")
        kind = found
        tolerance = float(stream.time_base) + 1 / frame.rate  # Matroska counts milliseconds
        if frame.time is None or (due is not None and abs(frame.time - due) > tolerance):
            raise UndecodableAudio(f"FFmpeg: samples are missing after {num_samples}")
        due = frame.time + frame.samples / frame.rate
        num_samples += frame.samples
        seconds += frame.samples / frame.rate
        for part in interleaved.resample(frame):
            yield part.to_ndarray().reshape(-1, part.layout.nb_channels), frame.rate
    if not num_samples:
        raise EmptyAudio("0 samples")
    stated = _stated_seconds(container, stream) if demuxer in _LENGTH_IS_STATED else None
    if stated is not None and seconds < stated - _TAIL:
        raise TruncatedAudio(f"the container claims {stated:.3f} s, there are {seconds:.3f}")
    return num_samples


def _stated_seconds(container: Any, stream: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None
