"""Audio that libsndfile cannot read to its end, through the FFmpeg that PyAV carries."""

import io
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from pipeline.errors import EmptyAudio, OversizedAudio, UndecodableAudio


def read_with_ffmpeg(data: bytes, max_seconds: float) -> tuple[npt.NDArray[Any], int]:
    """Decode the first audio stream to float32 of shape (T, C), and its rate in Hz.

    Raises `UndecodableAudio` at the first damaged frame: FFmpeg would conceal it.
    """
    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            stream = container.streams.audio[0]
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
            blocks = _decode(container, stream, max_seconds)
            rate = int(stream.rate)
    except (av.FFmpegError, IndexError) as error:
        raise UndecodableAudio(f"FFmpeg: {error}") from error
    if not blocks:
        raise EmptyAudio("0 samples")
    return np.concatenate(blocks), rate


def _decode(container: Any, stream: Any, max_seconds: float) -> list[npt.NDArray[Any]]:
    interleaved = av.AudioResampler(format="flt")
    blocks: list[npt.NDArray[Any]] = []
    num_samples, due = 0, None  # when the next frame must begin, s
    for frame in container.decode(stream):
        if frame.time is None or (due is not None and abs(frame.time - due) * frame.rate > 1):
            raise UndecodableAudio(f"FFmpeg: samples are missing after {num_samples}")
        due = frame.time + frame.samples / frame.rate
        for part in interleaved.resample(frame):
            blocks.append(part.to_ndarray().reshape(-1, part.layout.nb_channels))
            num_samples += len(blocks[-1])
        if num_samples > max_seconds * frame.rate:
            raise OversizedAudio(f"longer than limits.seconds, {max_seconds:g}")
    return blocks
