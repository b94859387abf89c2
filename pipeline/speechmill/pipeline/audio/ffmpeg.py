"""Audio that the FFmpeg in PyAV decodes."""

import re
from collections.abc import Generator, Iterator
from enum import StrEnum
from itertools import chain
from typing import Any

import av
import numpy as np
from av.codec.context import Flags2

from speechmill.pipeline.audio.containers.held import Held
from speechmill.pipeline.audio.containers.recognize import Recording
from speechmill.pipeline.audio.samples import BLOCK, Limits, Samples, Source, check_size
from speechmill.pipeline.audio.sndfile import stream_of
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import EmptyAudio, TruncatedAudio, UndecodableAudio

_WITH_TIMES = ("mov", "matroska", "asf")  # containers that state when each frame begins
_LENGTH_IS_STATED = ("mov", "matroska")  # for other containers FFmpeg estimates the length
_TAIL = 0.1  # s of an encoder's padding that the stated length may include
_JITTER = 0.020  # s by which a frame's time may differ from the end of the frames before it
_SHARE = 0.9  # of a frame: a frame that is missing is no jitter
_PACE = 0.01  # by which the expected time follows the clock of a live recording, per frame
_PCM = re.compile(r"pcm_(?:[suf](\d+)(?:le|be)?|mulaw|alaw)")  # with the bits of a sample
# FFmpeg's own decoders do not know the frames of silence.
_DECODERS = {"amrnb": "libopencore_amrnb", "amrwb": "libopencore_amrwb"}


class Gaps(StrEnum):
    """What becomes of the time that no frame of a recording fills."""

    REJECT = "reject"
    SILENCE = "silence"  # fill it
    JOIN = "join"  # leave it out


def read_with_ffmpeg(recording: Recording, limits: Limits, gaps: Gaps) -> Source:
    """Decode the first audio stream of a container.

    Raises `UndecodableAudio` at the first damaged frame, which FFmpeg would otherwise conceal, and
    `TruncatedAudio` at the end if there were fewer samples than the container holds.
    """
    frames = _all_frames(recording, gaps)
    first = next(frames, None)
    if first is None:
        raise EmptyAudio("0 samples")
    block_TC, rate = first
    num_channels = block_TC.shape[1]
    check_size(0, rate, num_channels, limits, "there are")
    return Source(rate, num_channels, _blocks(chain([first], frames), limits))


def _blocks(frames: Iterator[tuple[Samples, int]], limits: Limits) -> Iterator[Samples]:
    """Join frames to blocks; rate and channels must not change between frames."""
    parts: list[Samples] = []
    held, total = 0, 0
    kind: tuple[int, int] | None = None
    for part_TC, rate in frames:
        found = (rate, part_TC.shape[1])
        if found != (kind or found):
            raise UndecodableAudio(f"{kind} Hz and channels become {found}")
        kind = found
        parts.append(part_TC)
        held += len(part_TC)
        total += len(part_TC)
        if held >= BLOCK:
            check_size(total, *kind, limits, "there are more than")
            yield np.concatenate(parts)
            parts, held = [], 0
    if parts and kind:
        check_size(total, *kind, limits, "there are")
        yield np.concatenate(parts)


def _all_frames(recording: Recording, gaps: Gaps) -> Iterator[tuple[Samples, int]]:
    """Frames of float32 samples of shape (T, C), each with its rate in Hz."""
    num_samples = 0
    for link in recording.links:
        num_samples += yield from _frames(link, recording, gaps)
    least = recording.held.num_samples
    if least is not None and num_samples < least:
        raise TruncatedAudio(f"the frames hold {least} samples, {num_samples} came out")


def _frames(
    data: Blob, recording: Recording, gaps: Gaps
) -> Generator[tuple[Samples, int], None, int]:
    """The frames of one file; returns the number of their samples."""
    named = recording.container
    try:
        stream = stream_of(data)
        with av.open(stream, format=recording.demuxer, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise UndecodableAudio(f"no audio among {len(container.streams)} streams")
            audio = container.streams.audio[0]
            decoder = _decoder(audio)
            named = f"{named} with {decoder.name}"
            num_samples = yield from _decoded(container, audio, decoder, gaps, recording.held)
            _check_pcm(decoder.name, num_samples, audio.channels, recording.held)
            return num_samples
    except av.FFmpegError as error:
        raise UndecodableAudio(f"{named}: FFmpeg: {error.strerror}") from error


def _decoder(stream: Any) -> Any:
    if stream.codec_context is None:
        raise UndecodableAudio("FFmpeg has no decoder for the audio stream")
    decoder = stream.codec_context
    if decoder.name in _DECODERS:
        decoder = av.CodecContext.create(_DECODERS[decoder.name], "r")
    decoder.options = {"err_detect": "crccheck+explode"}
    if decoder.name == "alac":
        # Its last frame says how long it is; FFmpeg would cut off the rest of a CAF's packet again.
        decoder.flags2 |= Flags2.skip_manual
    return decoder


def _decoded(
    container: Any, stream: Any, decoder: Any, gaps: Gaps, held: Held
) -> Generator[tuple[Samples, int], None, int]:
    # Elsewhere a gap is damage.
    clock = _Clock(gaps if container.format.name.startswith(_WITH_TIMES) else None)
    kind: tuple[int, int] | None = None
    interleaved = av.AudioResampler(format="flt")
    for packet in container.demux(stream):
        for frame in decoder.decode(packet):
            if kind != (frame.rate, frame.layout.nb_channels):
                kind = (frame.rate, frame.layout.nb_channels)
                interleaved = av.AudioResampler(format="flt")
            missing = clock.missing_before(frame)
            # In blocks, so that a gap of years ends at the limits and not in the memory.
            for start in range(0, missing, BLOCK):
                size = (min(BLOCK, missing - start), frame.layout.nb_channels)
                yield np.zeros(size, np.float32), frame.rate
            for part in interleaved.resample(frame):
                yield part.to_ndarray().reshape(-1, part.layout.nb_channels), frame.rate
    if not clock.num_samples:
        raise EmptyAudio("0 samples")
    if held.states_length and container.format.name.startswith(_LENGTH_IS_STATED):
        _check_length(_stated_seconds(container, stream), clock.end)
    return clock.num_samples


class _Clock:
    """Compares the time of each frame with the samples before it.

    Live recordings have times that jitter, run at their own pace and begin late.
    """

    def __init__(self, gaps: Gaps | None):
        self.num_samples = 0
        self.end = 0.0  # s, of the last frame
        self._gaps = gaps
        self._due: float | None = None  # s, when the next frame must begin
        self._longest = 0.0  # s, of the frames until now

    def missing_before(self, frame: Any) -> int:
        """Samples of silence to put in front of a frame."""
        # Frames that a decoder gives at the end have no time.
        time = frame.time if frame.time is not None else self._due or 0.0
        due = time if self._due is None else self._due
        late = time - due
        length = frame.samples / frame.rate
        self._longest = max(self._longest, length)
        missing = 0
        if abs(late) > min(_JITTER, _SHARE * self._longest):
            missing = self._fill(late, frame.rate)
            due, late = time, 0.0
        self._due = due + late * _PACE + length
        self.num_samples += frame.samples
        self.end = max(time + length, self.num_samples / frame.rate)
        return missing

    def _fill(self, late: float, rate: int) -> int:
        if self._gaps is Gaps.JOIN:
            return 0
        if self._gaps is Gaps.SILENCE and late > 0:
            return round(late * rate)
        cure = "; audio.gaps=silence fills gaps, audio.gaps=join leaves them out"
        raise UndecodableAudio(
            f"samples are missing after {self.num_samples}: {late:+.3f} s to the next frame"
            f"{cure if self._gaps else ''}"
        )


def _check_pcm(coding: str, num_samples: int, num_channels: int, held: Held) -> None:
    """Raise unless there are as many samples of PCM as the container holds."""
    width = _PCM.fullmatch(coding)
    if width is None or held.audio_bytes is None:
        return
    there_are = held.audio_bytes // (int(width[1] or 8) // 8 * num_channels)
    for number in (there_are, held.num_samples):
        if number not in (None, num_samples):
            raise UndecodableAudio(f"{num_samples} samples of {coding} came out, not {number}")


def _check_length(stated: float | None, end: float) -> None:
    if stated is not None and end < stated - _TAIL:
        raise TruncatedAudio(f"the container claims {stated:.3f} s, there are {end:.3f}")


def _stated_seconds(container: Any, stream: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None
