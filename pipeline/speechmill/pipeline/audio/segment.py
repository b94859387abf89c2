"""Recordings cut into the clips that become rows: whole, by windows, metadata, silence or speech.

A window is encoded with context on both sides that its row does not keep. If the context covers
the receptive field of a frame, the tokens of the windows are those of the whole recording.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.audio.buffer import SampleBuffer
from speechmill.pipeline.audio.resample import AudioSettings, resampled
from speechmill.pipeline.audio.samples import Samples, step_power, to_float
from speechmill.pipeline.audio.vad import RATE as VAD_RATE
from speechmill.pipeline.audio.vad import SpeechSettings, find_speech, load_network
from speechmill.pipeline.errors import (
    BadSegments,
    InputError,
    OversizedAudio,
    SilentAudio,
    check_choice,
)

_FAR = 2**62  # samples, beyond the end of any recording
_TOLERANCE = 0.1  # s by which a span may exceed its recording: transcripts are rounded
_STEPS_PER_SECOND = 100  # at which loudness is measured
_STEPS_AT_ONCE = 1000


@dataclass
class SegmentSettings:
    """How a recording becomes rows; part of a token dataset's identity."""

    by: str = "none"  # none | fixed | metadata | silence | vad
    seconds: float = 30.0  # of a fixed window; the longest clip of silence and vad
    context_seconds: float | None = None  # around a fixed window; default: the receptive field
    list: str | None = None  # key of a list of objects in the sample's JSON; null: lists of times
    starts: str = "start"  # key of a segment's start, s, or of the list of starts
    ends: str = "end"  # the same for the ends
    texts: str = "text"  # the same for the texts, which may be missing
    silence_db: float = -45.0  # of full scale; audio below this level is silence
    silence_seconds: float = 0.3  # the shortest silence that separates two clips
    threshold: float = 0.5  # of vad: the probability from which audio is speech
    min_speech: float = 0.25  # of vad, s; shorter speech is left out
    min_silence: float = 0.1  # of vad, s; as much of it separates two clips
    pad: float = 0.03  # of vad, s; is kept on both sides of speech

    def __post_init__(self) -> None:
        check_choice("segment.by", self.by, ("none", "fixed", "metadata", "silence", "vad"))
        if self.seconds < 0.1:
            raise InputError(f"segment.seconds is {self.seconds}; give at least 0.1")
        if self.silence_seconds < 0.02:
            raise InputError(
                f"segment.silence_seconds is {self.silence_seconds}; give 0.02 or more"
            )
        if self.by == "vad":
            self._check_vad()

    def _check_vad(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"segment.threshold is {self.threshold}; give one between 0 and 1")
        for name in ("min_speech", "min_silence", "pad"):
            if not 0 <= (value := getattr(self, name)) < self.seconds / 3:
                raise InputError(
                    f"segment.{name} is {value}; give 0 or more, and less than a third of "
                    f"segment.seconds ({self.seconds:g})"
                )


@dataclass(slots=True)
class Clip:
    """The audio of one row, and the facts that the row states.

    The cutter sets the first six fields, the reader of the recording the next four, and the reader
    of the shard the last four.
    """

    audio_T: Samples  # int16 or float32 at the codec's rate, with the context of a window
    start: float  # s, without the context
    end: float  # s, without the context; inf until the length of the recording is known
    num_frames: int
    first_frame: int = 0  # among the frames that the codec makes from `audio_T`
    text: str | None = None
    codec: int = 0  # position among the codecs of the run
    sample_rate: int = 0  # Hz, of the source
    num_channels: int = 0  # of the source
    channel: int | None = None  # of the source, counted from 0; None: not one channel alone
    key: str = ""
    index: int = 0  # position of the sample in its tar
    audio_xxh3: int = 0
    metadata: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A segment that the metadata of a sample lists."""

    start: float  # s
    end: float  # s
    text: str | None = None

    @property
    def empty(self) -> bool:
        return self.end <= self.start


Row = tuple[Any, Any, Any]  # start, end and text of a segment, as the JSON has them
# It yields None to say that it has read some audio that gives no clip.
Cutter = Callable[[SampleBuffer, Sequence[Span]], Iterator[Clip | None]]


def cutter(settings: SegmentSettings, codec: CodecInfo, expansion: float = math.inf) -> Cutter:
    """The function that cuts a recording for a codec; `expansion` is the limit of that name.

    Raises `InputError` if fixed windows need `context_seconds` and it is not set.
    """
    if settings.by == "fixed":
        before, after = _context(settings, codec)
        frames = max(1, int(settings.seconds * codec.frame_rate))
        return lambda buffer, _: _fixed(buffer, codec, frames, before, after)
    if settings.by == "metadata":
        return lambda buffer, spans: _by_spans(buffer, codec, spans, expansion)
    if settings.by == "silence":
        return lambda buffer, _: _by_silence(buffer, codec, settings)
    if settings.by == "vad":
        load_network()  # or say what is missing before any recording is read
        return lambda buffer, _: _by_speech(buffer, codec, settings)
    return lambda buffer, _: _whole(buffer, codec)


def _context(settings: SegmentSettings, codec: CodecInfo) -> tuple[int, int]:
    """Samples before a window, in whole frames, and after it."""
    if settings.context_seconds is not None:
        given = round(settings.context_seconds * codec.sample_rate)
        before, after = given, given
    elif codec.context is not None:
        before, after = codec.context
    else:
        raise InputError(
            f"every frame of {codec.name} depends on the whole recording: set "
            "segment.context_seconds; the tokens of windows will differ from those of the whole"
        )
    return -(-before // codec.hop_length) * codec.hop_length, max(after, -codec.frame_offset)


def _whole(buffer: SampleBuffer, codec: CodecInfo) -> Iterator[Clip]:
    buffer.read_to(_FAR)
    if buffer.end:
        yield Clip(buffer.read(0, buffer.end), 0.0, math.inf, codec.num_frames(buffer.end))


def _fixed(
    buffer: SampleBuffer, codec: CodecInfo, frames: int, before: int, after: int
) -> Iterator[Clip]:
    """Windows of `frames` frames; the last one ends with the recording."""
    hop, rate = codec.hop_length, codec.sample_rate
    for first in range(0, _FAR, frames):
        start, stop = first * hop, (first + frames) * hop
        buffer.read_to(stop + after + 2 * hop)  # far enough to know whether another frame follows
        left = max(0, start - before)
        skipped = (start - left) // hop
        if buffer.finished and codec.num_frames(buffer.end) <= first + frames:
            num_frames = codec.num_frames(buffer.end) - first
            if num_frames > 0:
                audio_T = buffer.read(left, buffer.end)
                yield Clip(audio_T, start / rate, math.inf, num_frames, skipped)
            return
        audio_T = buffer.read(left, min(stop + after, buffer.end))
        yield Clip(audio_T, start / rate, stop / rate, frames, skipped)
        buffer.discard_before(stop - before)


def _by_spans(
    buffer: SampleBuffer, codec: CodecInfo, spans: Sequence[Span], expansion: float
) -> Iterator[Clip]:
    rate, total = codec.sample_rate, 0.0
    for span in spans:
        start, stop = round(span.start * rate), round(span.end * rate)
        buffer.discard_before(start)
        buffer.read_to(stop)
        if stop > buffer.end + _TOLERANCE * rate or start >= buffer.end:
            raise BadSegments(
                f"a segment from {span.start:g} to {span.end:g} s in {buffer.end / rate:.3f} s"
            )
        total += span.end - span.start
        _check_expansion(buffer, rate, total, expansion)
        end = span.end if stop <= buffer.end else math.inf
        audio_T = buffer.read(start, min(stop, buffer.end))
        yield Clip(audio_T, span.start, end, codec.num_frames(len(audio_T)), text=span.text)
    buffer.discard_before(_FAR)
    while not buffer.finished:  # damage after the last span rejects the recording too
        buffer.read_to(buffer.end + 1)
        buffer.discard_before(_FAR)


def _check_expansion(buffer: SampleBuffer, rate: int, total: float, expansion: float) -> None:
    """Raise `OversizedAudio` if spans of `total` s are too much for the recording.

    Reads no further than to where the recording is long enough, so that the clips before the one
    that is too much are all that is ever cut.
    """
    buffer.read_to(math.ceil((total / expansion - _TOLERANCE) * rate))
    seconds = buffer.end / rate
    if total > expansion * (seconds + _TOLERANCE):
        raise OversizedAudio(
            f"segments of {total:.1f} s or more in {seconds:.1f} s of audio; limits.expansion is "
            f"{expansion:g} times the recording"
        )


def read_spans(metadata: Any, settings: SegmentSettings) -> list[Span]:
    """The spans that a sample's JSON lists, in order of their start; some may be empty.

    Raises `BadSegments`.
    """
    fields = metadata if isinstance(metadata, dict) else {}
    listed = settings.list
    rows = _objects(fields, listed, settings) if listed else _parallel_lists(fields, settings)
    spans = [Span(float(a), float(b), t if isinstance(t, str) else None) for a, b, t in rows]
    starts = [span.start for span in spans if not span.empty]
    if len(set(starts)) < len(starts):
        raise BadSegments("two segments begin at the same time")
    return sorted(spans, key=lambda span: span.start)


def _parallel_lists(fields: dict[str, Any], settings: SegmentSettings) -> list[Row]:
    """Rows of a list of starts and one of ends; a list of texts of the same length gives theirs."""
    starts, ends = fields.get(settings.starts), fields.get(settings.ends)
    for name, values in ((settings.starts, starts), (settings.ends, ends)):
        if not isinstance(values, list) or not values or not all(map(_is_time, values)):
            hint = _hint(fields)
            raise BadSegments(f"the metadata has no list of seconds called {name!r}{hint}")
    assert isinstance(starts, list)
    assert isinstance(ends, list)
    texts = fields.get(settings.texts)
    if isinstance(texts, str) and len(starts) == 1:
        texts = [texts]
    if not isinstance(texts, list) or len(texts) != len(starts):
        texts = [None] * len(starts)
    if len(starts) != len(ends):
        raise BadSegments(f"{len(starts)} starts, {len(ends)} ends")
    return list(zip(starts, ends, texts, strict=True))


def _hint(fields: dict[str, Any]) -> str:
    """The cure, if the metadata has a list of objects."""
    for name, value in fields.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return f"; if its list of objects {name[:100]!r} has the segments, set segment.list"
    return ""


def _objects(fields: dict[str, Any], listed: str, settings: SegmentSettings) -> list[Row]:
    """Rows of a list of objects, such as Whisper's and GigaSpeech's."""
    objects = fields.get(listed)
    if not isinstance(objects, list) or not objects:
        raise BadSegments(f"the metadata has no list of segments called {listed!r}")
    for number, each in enumerate(objects):
        for name in (settings.starts, settings.ends):
            if not isinstance(each, dict) or not _is_time(each.get(name)):
                raise BadSegments(
                    f"segment {number} of {listed!r} has no seconds called {name!r}; "
                    "segment.starts and segment.ends are the keys of its times"
                )
    return [
        (each[settings.starts], each[settings.ends], each.get(settings.texts)) for each in objects
    ]


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _by_silence(
    buffer: SampleBuffer, codec: CodecInfo, settings: SegmentSettings
) -> Iterator[Clip | None]:
    """Yield speech with a margin of silence; split longer clips than `seconds` where quietest.

    In long silence, yield None, so that another channel of the recording can go on.
    """
    step = codec.sample_rate // _STEPS_PER_SECOND
    pause = round(settings.silence_seconds * _STEPS_PER_SECOND)
    longest = round(settings.seconds * _STEPS_PER_SECOND)
    margin = min(10, pause // 2)
    begin: int | None = None  # of the clip; all positions count steps
    last = free = 0  # the last loud step, and the first one after the previous clip
    recent: list[float] = []  # loudness of the steps since `begin`
    for position, loudness in _loudness(buffer, step):
        loud = loudness > settings.silence_db
        last = position if loud else last
        if begin is None:
            if not loud:
                buffer.discard_before((position - margin) * step)
                if position % _STEPS_AT_ONCE == _STEPS_AT_ONCE - 1:
                    yield None
                continue
            begin, recent = max(free, position - margin), []
        recent.append(loudness)
        if position - last >= pause:
            free = last + 1 + margin
            yield _take(buffer, begin * step, free * step, codec)
            begin = None
        elif position + 1 - begin >= longest:
            quietest = len(recent) - longest // 2 + int(np.argmin(recent[-(longest // 2) :]))
            free = position + 1 - len(recent) + quietest
            yield _take(buffer, begin * step, free * step, codec)
            begin, recent = (free if last >= free else None), recent[quietest:]
    if begin is not None:
        yield _take(buffer, begin * step, min((last + 1 + margin) * step, buffer.end), codec)
    elif not free:
        raise SilentAudio(f"nothing is louder than {settings.silence_db:g} dB")


def _by_speech(
    buffer: SampleBuffer, codec: CodecInfo, settings: SegmentSettings
) -> Iterator[Clip | None]:
    """Yield what Silero's detector takes for speech, and None after some seconds without a clip."""
    speech = SpeechSettings(
        threshold=settings.threshold,
        min_speech=settings.min_speech,
        min_silence=settings.min_silence,
        pad=settings.pad,
        longest=settings.seconds,
    )
    scale, silent = codec.sample_rate / VAD_RATE, True
    for heard in find_speech(_for_detector(buffer, codec.sample_rate), speech):
        for start, stop in heard.speech:
            first, end = round(start * scale), min(round(stop * scale), buffer.end)
            if first < end:  # rounding may leave nothing of the last samples
                silent = False
                yield _take(buffer, first, end, codec)
        buffer.discard_before(math.floor(heard.needed * scale))
        if not heard.speech:
            yield None
    if silent:
        raise SilentAudio(
            f"no speech of {settings.min_speech:g} s or more; segment.threshold is "
            f"{settings.threshold:g}"
        )


def _for_detector(buffer: SampleBuffer, rate: int) -> Iterator[Samples]:
    """The whole recording at the rate of the detector; nothing is discarded."""

    def seconds() -> Iterator[Samples]:
        for start in range(0, _FAR, rate):
            buffer.read_to(start + rate)
            if start >= buffer.end:
                return
            yield to_float(buffer.read(start, min(start + rate, buffer.end)))

    buffer.read_to(1)
    return resampled(seconds(), rate, VAD_RATE, AudioSettings()) if buffer.end else iter(())


def _take(buffer: SampleBuffer, start: int, stop: int, codec: CodecInfo) -> Clip:
    audio_T, rate = buffer.read(start, stop), codec.sample_rate
    buffer.discard_before(stop)
    return Clip(audio_T, start / rate, stop / rate, codec.num_frames(len(audio_T)))


def _loudness(buffer: SampleBuffer, step: int) -> Iterator[tuple[int, float]]:
    """The position and mean power of each step, dB of full scale; the last one may be shorter."""
    position = 0
    while not (buffer.finished and position * step >= buffer.end):
        buffer.read_to((position + _STEPS_AT_ONCE) * step)
        stop = min((position + _STEPS_AT_ONCE) * step, buffer.end)
        if stop == position * step:
            return
        power_S = step_power(buffer.read(position * step, stop), step)
        for loudness in (10 * np.log10(power_S + 1e-12)).tolist():
            yield position, loudness
            position += 1
