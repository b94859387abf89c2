"""Audio that libsndfile cannot read to its end, decoded by the FFmpeg of PyAV."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import numpy.typing as npt

from speechmill.pipeline.errors import EmptyAudio, TruncatedAudio, UndecodableAudio

_LENGTH_IS_STATED = ("mov", "matroska")  # for other containers FFmpeg estimates the length
_TAIL = 0.1  # s of an encoder's padding that the stated length may include


def read_with_ffmpeg(stream: BinaryIO, demuxer: str) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Yield frames of the first audio stream, float32 of shape (T, C), each with its rate in Hz.

    Raises `UndecodableAudio` at the first damaged frame, which FFmpeg would otherwise conceal.
    """
    try:
        with av.open(stream, mode="r", format=demuxer) as container:
            if not container.streams.audio:
                raise UndecodableAudio(f"no audio among {len(container.streams)} streams")
            audio = container.streams.audio[0]
            if audio.codec_context is None:
                raise UndecodableAudio("FFmpeg has no decoder for the audio stream")
            audio.codec_context.options = {"err_detect": "crccheck+explode"}
            yield from _decode(container, audio, demuxer)
    except av.FFmpegError as error:
        raise UndecodableAudio(f"FFmpeg: {error.strerror}") from error


def _decode(container: Any, stream: Any, demuxer: str) -> Iterator[tuple[npt.NDArray[Any], int]]:
    interleaved = av.AudioResampler(format="flt")
    num_samples, seconds = 0, 0.0
    due: float | None = None  # s, when the next frame must begin
    for frame in container.decode(stream):
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


def _stated_seconds(container: Any, stream: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None
