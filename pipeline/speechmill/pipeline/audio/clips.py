"""One recording to the pieces that become rows, for one codec or for several at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.audio.buffer import Tape, shared
from speechmill.pipeline.audio.decoders import Limits, Samples, Source, open_audio
from speechmill.pipeline.audio.filters import Filters, FilterSettings
from speechmill.pipeline.audio.resample import AudioSettings, Clock, one_channel, resampled
from speechmill.pipeline.audio.segment import Segment, SegmentSettings, Span, cutter
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import BadSegments, EmptyAudio, Unwanted


@dataclass
class RecordingSettings:
    """What turns a file into pieces."""

    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    segment: SegmentSettings = field(default_factory=SegmentSettings)
    filters: FilterSettings = field(default_factory=FilterSettings)


@dataclass(frozen=True, slots=True)
class Piece:
    """Audio of one row, with what the row says of it."""

    audio_T: Samples  # int16 or float32 at the codec's rate, with the context of a window
    start: float  # s, without the context
    end: float  # s
    first_frame: int  # of those that the codec gives for `audio_T`
    num_frames: int
    sample_rate: int  # Hz, of the source
    num_channels: int  # of the source
    text: str | None  # of the segment
    codec: int  # position among the codecs


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a recording, or one piece of it, is no row."""

    error: str  # class name
    message: str
    stage: str  # decode or filter
    start: float | None = None  # s; None: the whole recording, with what came of it before
    end: float | None = None
    codec: int | None = None  # None: all of them


class Recordings:
    """Raises `InputError` on making where settings and codecs do not go together."""

    def __init__(self, settings: RecordingSettings, codecs: Sequence[CodecInfo]):
        self.settings = settings
        self.codecs = codecs
        self._cutters = [cutter(settings.segment, codec) for codec in codecs]
        self._filters = Filters(settings.filters)

    def close(self) -> None:
        """Let go of whatever they are decoded with."""

    def pieces(self, data: Blob, spans: Sequence[Span] = ()) -> Iterator[Piece | Fault]:
        """Yield the pieces of each codec in order of their start.

        A `Fault` without `start` ends them and takes back what came before it. `MemoryError` goes
        through: whose fault it is cannot be told here.
        """
        try:
            yield from self._pieces(data, spans)
        except MemoryError:
            raise
        # A damaged file may raise anything from within a decoder; it costs only itself.
        except Exception as error:
            yield _fault(error)

    def _pieces(self, data: Blob, spans: Sequence[Span]) -> Iterator[Piece | Fault]:
        source = open_audio(data, self.settings.limits)
        clock = Clock(source)
        tapes = self._tapes(clock.count(source.blocks), source.sample_rate)
        running = [self._of_codec(n, tape, spans, source, clock) for n, tape in enumerate(tapes)]
        reached = dict.fromkeys(range(len(running)), 0.0)
        while reached:  # the codecs go on side by side: what one has read ahead is held in memory
            number = min(reached, key=lambda n: reached[n])
            piece = next(running[number], None)
            if piece is None:
                del reached[number]
            else:
                reached[number] = piece.start or 0.0
                yield piece

    def _tapes(self, blocks: Iterator[Samples], rate: int) -> list[Tape]:
        """A tape for each codec; what they share is computed once."""
        settings = self.settings.audio
        mono = one_channel(blocks, settings)
        rates = [codec.sample_rate for codec in self.codecs]
        copies = dict(zip(dict.fromkeys(rates), shared(mono, len(set(rates))), strict=True))
        at_rate = {
            target: iter(shared(resampled(copy, rate, target, settings), rates.count(target)))
            for target, copy in copies.items()
        }
        return [Tape(next(at_rate[target])) for target in rates]

    def _of_codec(
        self, number: int, tape: Tape, spans: Sequence[Span], source: Source, clock: Clock
    ) -> Iterator[Piece | Fault]:
        any_piece = False
        try:
            for segment in self._cutters[number](tape, spans):
                any_piece = True
                end = clock.seconds if segment.end is None else segment.end
                yield self._piece_or_fault(number, segment, end, source)
            if not any_piece:
                raise EmptyAudio("less than one frame of the codec")
        except (BadSegments, EmptyAudio, Unwanted) as error:
            yield _fault(error, codec=number)

    def _piece_or_fault(
        self, number: int, segment: Segment, end: float, source: Source
    ) -> Piece | Fault:
        codec, num_frames = self.codecs[number], segment.num_frames
        if num_frames is None:
            num_frames = codec.num_frames(len(segment.audio_T)) - segment.first_frame
        try:
            if num_frames <= 0:
                raise EmptyAudio(f"{len(segment.audio_T)} samples are less than one frame")
            kept_T = segment.audio_T[segment.first_frame * codec.hop_length :]
            if segment.end is not None:
                kept_T = kept_T[: round((end - segment.start) * codec.sample_rate)]
            self._filters.check_audio(kept_T, codec.sample_rate, end - segment.start)
        except (EmptyAudio, Unwanted) as error:
            if self.settings.segment.by == "none":
                raise
            return _fault(error, segment.start, end, number)
        return Piece(
            audio_T=segment.audio_T,
            start=segment.start,
            end=end,
            first_frame=segment.first_frame,
            num_frames=num_frames,
            sample_rate=source.sample_rate,
            num_channels=source.num_channels,
            text=segment.text,
            codec=number,
        )


def _fault(
    error: Exception,
    start: float | None = None,
    end: float | None = None,
    codec: int | None = None,
) -> Fault:
    stage = "filter" if isinstance(error, Unwanted) else "decode"
    return Fault(type(error).__name__, str(error), stage, start, end, codec)
