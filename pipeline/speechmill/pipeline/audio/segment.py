"""Recordings into the pieces that become rows: one, fixed windows, spans of metadata, or speech.

A window is encoded between context that its row does not keep. Where the context covers all that
a frame of the codec sees, the windows' tokens are those of the whole recording.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.audio.buffer import Tape
from speechmill.pipeline.audio.decoders import Samples, to_float
from speechmill.pipeline.errors import BadSegments, InputError, SilentAudio

_FAR = 2**62  # samples, past the end of any recording
_TOLERANCE = 0.1  # s by which a span may outrun its recording: transcripts are rounded
_STEPS_PER_SECOND = 100  # at which loudness is measured
_STEPS_AT_ONCE = 1000


@dataclass
class SegmentSettings:
    """How a recording becomes rows; part of a token dataset's identity."""

    by: str = "none"  # none | fixed | metadata | silence
    seconds: float = 30.0  # of a fixed window; the longest piece between two silences
    context_seconds: float | None = None  # around a fixed window; default: what the codec sees
    starts: str = "start"  # key of the list of starts, s, in the sample's JSON
    ends: str = "end"
    silence_db: float = -45.0  # of full scale; quieter is silence
    silence_seconds: float = 0.3  # from here on a silence parts two pieces

    def __post_init__(self) -> None:
        if self.by not in ("none", "fixed", "metadata", "silence"):
            raise InputError(f"segment.by is {self.by!r}; use none, fixed, metadata or silence")
        if self.seconds < 0.1:
            raise InputError(f"segment.seconds is {self.seconds}; give at least 0.1")
        if self.silence_seconds < 0.02:
            raise InputError(
                f"segment.silence_seconds is {self.silence_seconds}; give 0.02 or more"
            )


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a recording, with what surrounds it."""

    audio_T: Samples
    start: float  # s, without the context
    end: float | None  # s; None: where the recording ends
    first_frame: int = 0  # of those that the codec gives for `audio_T`
    num_frames: int | None = None  # None: all from the first one on
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A piece as metadata names it."""

    start: float  # s
    end: float  # s
    text: str | None = None


Cutter = Callable[[Tape, Sequence[Span]], Iterator[Segment]]


def cutter(settings: SegmentSettings, codec: CodecInfo) -> Cutter:
    """How a tape is cut for a codec.

    Raises `InputError` where the context must be given and is not.
    """
    if settings.by == "fixed":
        before, behind = _context(settings, codec)
        frames = max(1, int(settings.seconds * codec.frame_rate))
        return lambda tape, _: _fixed(tape, codec, frames, before, behind)
    if settings.by == "metadata":
        return lambda tape, spans: _by_spans(tape, codec.sample_rate, spans)
    if settings.by == "silence":
        return lambda tape, _: _by_silence(tape, codec.sample_rate, settings)
    return lambda tape, _: _whole(tape)


def _context(settings: SegmentSettings, codec: CodecInfo) -> tuple[int, int]:
    """Samples before a window, in whole frames, and behind it."""
    if settings.context_seconds is not None:
        given = round(settings.context_seconds * codec.sample_rate)
        before, behind = given, given
    elif codec.context is not None:
        before, behind = codec.context
    else:
        raise InputError(
            f"{codec.name} sees the whole recording from every frame: set segment.context_seconds; "
            "the tokens of windows will differ from those of the whole"
        )
    return -(-before // codec.hop_length) * codec.hop_length, max(behind, -codec.frame_offset)


def _whole(tape: Tape) -> Iterator[Segment]:
    tape.read_to(_FAR)
    if tape.end:
        yield Segment(tape.cut(0, tape.end), 0.0, None)


def _fixed(
    tape: Tape, codec: CodecInfo, frames: int, before: int, behind: int
) -> Iterator[Segment]:
    """Windows of `frames` frames; the last one goes to the end of the recording."""
    hop = codec.hop_length
    for first in range(0, _FAR, frames):
        start, stop = first * hop, (first + frames) * hop
        tape.read_to(stop + behind + 2 * hop)  # so far that another frame would show
        left = max(0, start - before)
        skipped = (start - left) // hop
        if tape.finished and codec.num_frames(tape.end) <= first + frames:
            num_frames = codec.num_frames(tape.end) - first
            if num_frames > 0:
                audio_T = tape.cut(left, tape.end)
                yield Segment(audio_T, start / codec.sample_rate, None, skipped, num_frames)
            return
        audio_T = tape.cut(left, min(stop + behind, tape.end))
        times = (start / codec.sample_rate, stop / codec.sample_rate)
        yield Segment(audio_T, *times, skipped, frames)
        tape.forget(stop - before)


def _by_spans(tape: Tape, rate: int, spans: Sequence[Span]) -> Iterator[Segment]:
    for span in spans:
        start, stop = round(span.start * rate), round(span.end * rate)
        tape.forget(start)
        tape.read_to(stop)
        if stop > tape.end + _TOLERANCE * rate or start >= tape.end:
            raise BadSegments(
                f"a segment from {span.start:g} to {span.end:g} s in {tape.end / rate:.3f} s"
            )
        end = span.end if stop <= tape.end else None
        yield Segment(tape.cut(start, min(stop, tape.end)), span.start, end, text=span.text)
    tape.forget(_FAR)
    while not tape.finished:  # damage in what is left over is damage all the same
        tape.read_to(tape.end + 1)
        tape.forget(_FAR)


def read_spans(metadata: Any, settings: SegmentSettings) -> list[Span]:
    """The spans that a sample's JSON lists, in order of their start.

    A list `text` of the same length gives each its text. Raises `BadSegments`.
    """
    fields = metadata if isinstance(metadata, dict) else {}
    starts, ends = fields.get(settings.starts), fields.get(settings.ends)
    for name, values in ((settings.starts, starts), (settings.ends, ends)):
        if not isinstance(values, list) or not values or not all(map(_is_time, values)):
            raise BadSegments(f"the metadata has no list of seconds called {name!r}")
    assert isinstance(starts, list)
    assert isinstance(ends, list)
    texts = fields.get("text")
    if not isinstance(texts, list) or len(texts) != len(starts):
        texts = [None] * len(starts)
    if len(starts) != len(ends):
        raise BadSegments(f"{len(starts)} starts, {len(ends)} ends")
    rows = sorted(zip(starts, ends, texts, strict=True), key=lambda row: row[0])
    for start, end, _ in rows:
        if not start < end:
            raise BadSegments(f"a segment from {start:g} to {end:g} s")
    if len(set(starts)) < len(starts):
        raise BadSegments("two segments begin at the same time")
    return [Span(float(a), float(b), t if isinstance(t, str) else None) for a, b, t in rows]


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _by_silence(tape: Tape, rate: int, settings: SegmentSettings) -> Iterator[Segment]:
    """Stretches of speech with a margin of silence; over-long ones are parted where quietest."""
    step = rate // _STEPS_PER_SECOND
    pause = round(settings.silence_seconds * _STEPS_PER_SECOND)
    longest = round(settings.seconds * _STEPS_PER_SECOND)
    margin = min(10, pause // 2)
    begin: int | None = None  # of the piece; all positions are steps
    last = free = 0  # the last loud one, and the first behind the piece before
    recent: list[float] = []  # loudness up to here
    for position, loudness in _loudness(tape, step):
        loud = loudness > settings.silence_db
        last = position if loud else last
        if begin is None:
            if not loud:
                tape.forget((position - margin) * step)
                continue
            begin, recent = max(free, position - margin), []
        recent.append(loudness)
        if position - last >= pause:
            free = last + 1 + margin
            yield _piece(tape, begin * step, free * step, rate)
            begin = None
        elif position + 1 - begin >= longest:
            quietest = len(recent) - longest // 2 + int(np.argmin(recent[-(longest // 2) :]))
            free = position + 1 - len(recent) + quietest
            yield _piece(tape, begin * step, free * step, rate)
            begin, recent = (free if last >= free else None), recent[quietest:]
    if begin is not None:
        yield _piece(tape, begin * step, min((last + 1 + margin) * step, tape.end), rate)
    elif not free:
        raise SilentAudio(f"nothing is louder than {settings.silence_db:g} dB")


def _piece(tape: Tape, start: int, stop: int, rate: int) -> Segment:
    segment = Segment(tape.cut(start, stop), start / rate, stop / rate)
    tape.forget(stop)
    return segment


def _loudness(tape: Tape, step: int) -> Iterator[tuple[int, float]]:
    """The mean power of each step of a recording, dB of full scale; what is over counts as one."""
    position = 0
    while not (tape.finished and position * step >= tape.end):
        tape.read_to((position + _STEPS_AT_ONCE) * step)
        stop = min((position + _STEPS_AT_ONCE) * step, tape.end)
        if stop == position * step:
            return
        audio_T = to_float(tape.cut(position * step, stop))
        padded_T = np.pad(audio_T, (0, -len(audio_T) % step))
        power_S = np.square(padded_T.reshape(-1, step), dtype=np.float64).mean(axis=1)
        for loudness in (10 * np.log10(power_S + 1e-12)).tolist():
            yield position, loudness
            position += 1
