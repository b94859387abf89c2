"""Audio that the FFmpeg in PyAV decodes."""

import re
import struct
from collections.abc import Generator, Iterator
from enum import StrEnum
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

import av
import numpy as np
from av.codec.context import Flags2

from speechmill.pipeline.audio.containers.held import Held
from speechmill.pipeline.audio.containers.opus import CLOCK, OpusHeader, opus_header
from speechmill.pipeline.audio.containers.recognize import Recording
from speechmill.pipeline.audio.libopus import OpusDecoder, libopus
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
_AT_ONCE = 16  # packets or frames
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
        with av.open(
            stream, mode="r", format=recording.demuxer, metadata_errors="ignore"
        ) as container:
            if not container.streams.audio:
                raise UndecodableAudio(f"no audio among {len(container.streams)} streams")
            audio = container.streams.audio[0]
            decoder = _decoder(audio)
            named = f"{named} with {decoder.name}"
            header = _opus_header(decoder)
            packets = container.demux(audio)
            tick = float(audio.time_base or 0)
            if header:
                frames = _decoded_by_libopus(packets, header, tick)
            else:
                frames = _decoded(packets, decoder, tick)
            num_samples = yield from _in_time(frames, container, audio, gaps, recording.held)
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


def _opus_header(decoder: Any) -> OpusHeader | None:
    """The header if the stream is Opus and libopus is there; FFmpeg's own decoder is less exact."""
    if decoder.name != "opus" or not libopus():
        return None
    return opus_header(bytes(decoder.extradata or b""))


class _Run(NamedTuple):
    """Frames that follow each other; to handle them one by one would take as long as to decode."""

    rate: int  # Hz
    times: list[float | None]  # s, of each frame; those that a decoder gives at the end have none
    sizes: list[int]  # samples of each frame
    audio_TC: Samples  # float32


def _decoded(packets: Iterator[Any], decoder: Any, tick: float) -> Iterator[_Run]:
    """Decode by FFmpeg; times count ticks of so many seconds."""
    frames = (frame for packet in packets for frame in decoder.decode(packet))
    while some := list(islice(frames, _AT_ONCE)):
        for (rate, channels, layout), alike in groupby(some, _kind):
            run = list(alike)
            times = [None if frame.pts is None else frame.pts * tick for frame in run]
            audio_TC = (_planes if layout == "fltp" else _interleaved)(run, channels)
            yield _Run(rate, times, [frame.samples for frame in run], audio_TC)


def _kind(frame: Any) -> tuple[int, int, str]:
    return frame.rate, frame.layout.nb_channels, frame.format.name


def _planes(frames: list[Any], channels: int) -> Samples:
    """The samples of planar frames, without PyAV's resampler, which takes as long as to decode."""
    audio_CT = np.empty((channels, sum(frame.samples for frame in frames)), np.float32)
    for number, audio_T in enumerate(audio_CT):
        planes = [np.frombuffer(f.planes[number], np.float32, f.samples) for f in frames]
        np.concatenate(planes, out=audio_T)
    return audio_CT.T


def _interleaved(frames: list[Any], channels: int) -> Samples:
    resampler = av.AudioResampler(format="flt")
    parts = [part for frame in frames for part in resampler.resample(frame)]
    return np.concatenate([part.to_ndarray().reshape(-1, channels) for part in parts])


def _decoded_by_libopus(packets: Iterator[Any], header: OpusHeader, tick: float) -> Iterator[_Run]:
    decoder, skipped = OpusDecoder(header, header.sample_rate), header.pre_skip
    ticks = CLOCK // header.sample_rate  # of a sample, by the clock of Opus
    while some := list(islice(packets, _AT_ONCE)):
        some = [packet for packet in some if packet.size]  # the last one only ends the stream
        room_TC = np.empty(((len(some) + 1) * decoder.room, header.num_channels), np.float32)
        times, parts, position = [], [], 0
        for packet, size in zip(some, decoder.decode([*map(bytes, some)], room_TC), strict=True):
            skipped, padding = _trimming(packet) or (skipped, 0)
            start, end = min(skipped, size * ticks), size * ticks
            end -= padding if padding <= end else 0
            begin = int(start / CLOCK / tick + 0.5)
            times.append(None if packet.pts is None else (packet.pts + begin) * tick)
            parts.append(room_TC[position + start // ticks : position + max(start, end) // ticks])
            position += size
            skipped -= start
        sizes = [len(part_TC) for part_TC in parts]
        whole = sum(sizes) == position
        yield _Run(
            header.sample_rate, times, sizes, room_TC[:position] if whole else np.concatenate(parts)
        )


def _trimming(packet: Any) -> tuple[int, int] | None:
    """Samples to cut off from the begin and the end of a packet, by the demuxer."""
    for data in packet.iter_sidedata():
        if data.data_type == "skip_samples":
            begin, end = struct.unpack_from("<II", data)
            return begin, end
    return None


def _in_time(
    runs: Iterator[_Run], container: Any, stream: Any, gaps: Gaps, held: Held
) -> Generator[tuple[Samples, int], None, int]:
    """The samples, with what is to be in the gaps between frames."""
    # Elsewhere a gap is damage.
    clock = _Clock(gaps if container.format.name.startswith(_WITH_TIMES) else None)
    for run in runs:
        position = 0
        for place, missing in clock.gaps_in(run):
            yield run.audio_TC[position:place], run.rate
            # In blocks, so that a gap of years ends at the limits and not in the memory.
            for start in range(0, missing, BLOCK):
                size = (min(BLOCK, missing - start), run.audio_TC.shape[1])
                yield np.zeros(size, np.float32), run.rate
            position = place
        yield run.audio_TC[position:], run.rate
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

    def gaps_in(self, run: _Run) -> Iterator[tuple[int, int]]:
        """The places in a run where samples are missing, and how many."""
        place = 0
        for stated, size in zip(run.times, run.sizes, strict=True):
            if not size:
                continue
            time = self._due or 0.0 if stated is None else stated
            due = time if self._due is None else self._due
            late, length = time - due, size / run.rate
            self._longest = max(self._longest, length)
            if abs(late) > min(_JITTER, _SHARE * self._longest):
                yield place, self._fill(late, run.rate)
                due, late = time, 0.0
            self._due = due + late * _PACE + length
            self.num_samples += size
            self.end = max(time + length, self.num_samples / run.rate)
            place += size

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
