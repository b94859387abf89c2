"""Decode a recording into the clips that become rows, for one codec or for several at once."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.audio.buffer import SampleBuffer, shared
from speechmill.pipeline.audio.decoders import open_audio
from speechmill.pipeline.audio.ffmpeg import Gaps
from speechmill.pipeline.audio.filters import Filters, FilterSettings
from speechmill.pipeline.audio.resample import AudioSettings, SampleCounter, one_channel, resampled
from speechmill.pipeline.audio.samples import Limits, Samples, Source
from speechmill.pipeline.audio.segment import Clip, SegmentSettings, Span, cutter
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import (
    BadSegments,
    EmptyAudio,
    NonFiniteAudio,
    OversizedAudio,
    RejectStage,
    Unwanted,
)
from speechmill.pipeline.text import message_of

EACH = "each"  # of `audio.channels`


@dataclass
class ClipAudioSettings(AudioSettings):
    """How audio becomes clips; part of a token dataset's identity."""

    channel_choices = (*AudioSettings.channel_choices, EACH)

    # mean | first | error | each, for more than one channel; or the number of one, from 0.
    channels: Any = "mean"


@dataclass
class RecordingSettings:
    """How a file becomes clips."""

    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    segment: SegmentSettings = field(default_factory=SegmentSettings)
    filters: FilterSettings = field(default_factory=FilterSettings)
    longest_clips: tuple[float, ...] = ()  # s, what each codec can take; empty: any length


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a recording, or one clip of it, does not become a row."""

    error: str  # class name
    message: str
    stage: RejectStage
    start: float | None = None  # s; None: the whole recording, with the clips already yielded
    end: float | None = None
    codec: int | None = None  # None: all of them
    channel: int | None = None  # None: the whole recording


@dataclass(frozen=True, slots=True)
class _Track:
    """The audio of one codec, of the whole recording or of one of its channels."""

    codec: int
    channel: int | None
    buffer: SampleBuffer


class Recordings:
    """Decodes recordings in this process.

    Raises `InputError` on construction if the settings do not suit a codec.
    """

    def __init__(self, settings: RecordingSettings, codecs: Sequence[CodecInfo]):
        self.settings = settings
        self.codecs = codecs
        self.child_cpu_seconds = 0.0  # of another process that decodes, if there is one
        expansion = settings.limits.expansion
        self._cutters = [cutter(settings.segment, codec, expansion) for codec in codecs]
        self._filters = Filters(settings.filters)

    def close(self) -> None:
        """Release the processes that decode, if there are any."""

    def clips(self, data: Blob, spans: Sequence[Span] = ()) -> Iterator[Clip | Fault]:
        """Yield the clips of each codec in order of their start.

        A `Fault` without `start` comes last and rejects the clips before it. `MemoryError` is
        raised as it is, since the recording may not be its cause.
        """
        try:
            yield from self._clips(data, spans)
        except MemoryError:
            raise
        # A damaged file may raise any error inside a decoder; it costs only itself.
        except Exception as error:
            yield fault_of(error)

    def _clips(self, data: Blob, spans: Sequence[Span]) -> Iterator[Clip | Fault]:
        for span in spans:
            if span.empty:
                error = BadSegments(f"a segment from {span.start:g} to {span.end:g} s")
                yield fault_of(error, span.start, span.end)
        spans = [span for span in spans if not span.empty]
        source = open_audio(data, self.settings.limits, Gaps(self.settings.audio.gaps))
        counter = SampleCounter(source)
        tracks = list(self._tracks(source, counter))
        running = [self._of_track(track, spans, source, counter) for track in tracks]
        reached = dict.fromkeys(range(len(tracks)), 0.0)
        # The track that has been read least goes on, so that few blocks are held for the others.
        while reached:
            number = min(reached, key=lambda n: reached[n])
            try:
                clip = next(running[number])
            except StopIteration:
                del reached[number]
                continue
            if clip is None:
                track = tracks[number]
                reached[number] = track.buffer.end / self.codecs[track.codec].sample_rate
            else:
                reached[number] = clip.start or 0.0
                yield clip

    def _tracks(self, source: Source, counter: SampleCounter) -> Iterator[_Track]:
        """For each codec, the audio to cut into clips: the recording, or each of its channels."""
        blocks = counter.count(source.blocks)
        channels: dict[int | None, Iterator[Samples]] = {None: blocks}
        if self.settings.audio.channels == EACH and source.num_channels > 1:
            copies = enumerate(shared(blocks, source.num_channels))
            channels = {number: _channel(copy, number) for number, copy in copies}
        for channel, own in channels.items():
            for codec, buffer in enumerate(self._buffers(own, source.sample_rate)):
                yield _Track(codec, channel, buffer)

    def _buffers(self, blocks: Iterator[Samples], rate: int) -> list[SampleBuffer]:
        """A buffer for each codec; mixing and resampling are done once for codecs of one rate."""
        settings = self.settings.audio
        checked = self._filters.checked(blocks, mixed=settings.channels == "mean")
        mono = one_channel(checked, settings)
        rates = [codec.sample_rate for codec in self.codecs]
        copies = dict(zip(dict.fromkeys(rates), shared(mono, len(set(rates))), strict=True))
        at_rate = {
            target: iter(shared(resampled(copy, rate, target, settings), rates.count(target)))
            for target, copy in copies.items()
        }
        return [SampleBuffer(next(at_rate[target])) for target in rates]

    def _of_track(
        self, track: _Track, spans: Sequence[Span], source: Source, counter: SampleCounter
    ) -> Iterator[Clip | Fault | None]:
        empty = True
        try:
            for clip in self._cutters[track.codec](track.buffer, spans):
                if clip is None:
                    yield None
                    continue
                empty = False
                clip.codec, clip.channel = track.codec, track.channel
                clip.sample_rate, clip.num_channels = source.sample_rate, source.num_channels
                yield self._checked(clip, counter)
            if empty and self.settings.segment.by != "metadata":
                raise EmptyAudio("less than one frame of the codec")
        except (BadSegments, EmptyAudio, NonFiniteAudio, OversizedAudio, Unwanted) as error:
            yield fault_of(error, codec=track.codec, channel=track.channel)

    def _checked(self, clip: Clip, counter: SampleCounter) -> Clip | Fault:
        """The clip with its end, or why it is not a row."""
        codec = self.codecs[clip.codec]
        own_T = clip.audio_T[clip.first_frame * codec.hop_length :]  # without the context
        if clip.end == math.inf:
            clip.end = counter.seconds
        else:
            own_T = own_T[: round((clip.end - clip.start) * codec.sample_rate)]
        try:
            if clip.num_frames <= 0:
                raise EmptyAudio(f"{len(clip.audio_T)} samples are less than one frame")
            self._check_length(clip)
            self._filters.check_audio(own_T, codec.sample_rate, clip.end - clip.start)
        except (EmptyAudio, OversizedAudio, Unwanted) as error:
            if self.settings.segment.by == "none":
                raise
            return fault_of(error, clip.start, clip.end, clip.codec, clip.channel)
        return clip

    def _check_length(self, clip: Clip) -> None:
        """Raise `OversizedAudio` if the codec cannot encode a clip of this length."""
        codec = self.codecs[clip.codec]
        seconds = len(clip.audio_T) / codec.sample_rate
        if self.settings.longest_clips and seconds > self.settings.longest_clips[clip.codec]:
            raise OversizedAudio(
                f"a clip of {seconds:.1f} s; {codec.name} takes at most "
                f"{self.settings.longest_clips[clip.codec]:g} s on this kind of device; set "
                "segment.by=fixed to cut recordings"
            )


def fault_of(
    error: Exception,
    start: float | None = None,
    end: float | None = None,
    codec: int | None = None,
    channel: int | None = None,
    stage: RejectStage = RejectStage.DECODE,
) -> Fault:
    """The fault for an error; the errors of filters get the stage of filters."""
    stage = RejectStage.FILTER if isinstance(error, Unwanted) else stage
    return Fault(type(error).__name__, message_of(error), stage, start, end, codec, channel)


def _channel(blocks: Iterator[Samples], number: int) -> Iterator[Samples]:
    for block_TC in blocks:
        yield np.ascontiguousarray(block_TC[:, number : number + 1])
