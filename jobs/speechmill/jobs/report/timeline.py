"""The time in which runs worked on a dataset, and what they committed when.

Runs may be days apart. The axis has their time to scale, and short gaps between them too; a long
gap is a narrow band that says how long it is.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from speechmill.jobs.report.charts import Band, Tick, spread
from speechmill.jobs.report.logs import Run
from speechmill.jobs.report.wording import lasted, moment

_SHORT_GAP = 0.05  # of the time of all runs: shorter gaps are to scale
_GAP_WIDTH, _ALL_GAPS = 5.0, 30.0  # percent of the axis
_SEEN = 0.3  # percent: the narrowest band
_MOST_BINS = 96
_COMMITS_PER_BIN = 2
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Span:
    """Time in which at least one run was at work, s since 1970."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Bin:
    """Part of a span, and the seconds of audio that were committed in it."""

    start: float
    seconds: float
    audio: float

    @property
    def rate(self) -> float:
        """How many times as fast as real time."""
        return self.audio / self.seconds


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Places of times, in percent."""

    spans: list[Span]
    starts: list[float]  # percent at which each span begins
    scale: float  # percent per second
    bands: list[Band] = field(default_factory=list)  # in which nothing ran

    def at(self, time: float) -> float:
        """The place of a time; one in a gap is at the end of the span before it."""
        number = max(0, bisect_right(self.spans, time, key=lambda span: span.start) - 1)
        span = self.spans[number]
        return (
            self.starts[number] + (min(max(time, span.start), span.end) - span.start) * self.scale
        )


def working_spans(runs: Sequence[Run]) -> list[Span]:
    """The time in which at least one of the runs was at work."""
    spans = (
        Span(run.started, max(run.ended, run.started + 1.0))
        for run in runs
        if run.started is not None and run.ended is not None
    )
    return _joined(sorted(spans, key=lambda span: span.start), 0.0)


def time_axis(working: Sequence[Span]) -> TimeAxis:
    """Lay the time of runs out from 0 to 100 %; there must be some."""
    spans = _joined(working, _SHORT_GAP * sum(span.seconds for span in working))
    num_gaps = len(spans) - 1
    width = min(_GAP_WIDTH, _ALL_GAPS / max(1, num_gaps))
    scale = (100 - width * num_gaps) / sum(span.seconds for span in spans)
    starts = [0.0]
    for span in spans[:-1]:
        starts.append(starts[-1] + span.seconds * scale + width)
    axis = TimeAxis(spans, starts, scale)
    return replace(axis, bands=_bands(axis, working))


def _joined(spans: Sequence[Span], short: float) -> list[Span]:
    """Spans, in order, as one if they overlap or are at most `short` seconds apart."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.start - joined[-1].end <= short:
            joined[-1] = Span(joined[-1].start, max(span.end, joined[-1].end))
        else:
            joined.append(span)
    return joined


def _bands(axis: TimeAxis, working: Sequence[Span]) -> list[Band]:
    """The gaps between runs that are wide enough to be seen."""
    ends = [(axis.at(before.end), axis.at(after.start)) for before, after in pairwise(working)]
    return [
        Band(x, end - x, f"nothing ran for {lasted(after.start - before.end)}")
        for (x, end), (before, after) in zip(ends, pairwise(working), strict=True)
        if end - x > _SEEN
    ]


def throughput(spans: Sequence[Span], commits: Sequence[tuple[float, float]]) -> list[Bin]:
    """Audio that was committed in equal parts of each span.

    `commits` are pairs of time and seconds of audio. There are fewer parts than commits, because a
    shard counts as a whole when it is committed.
    """
    wanted = min(_MOST_BINS, max(1, len(commits) // _COMMITS_PER_BIN))
    total = sum(span.seconds for span in spans)
    counts = [max(1, round(wanted * span.seconds / total)) for span in spans]
    audio = [[0.0] * count for count in counts]
    starts = [span.start for span in spans]
    for time, seconds in commits:
        number = max(0, bisect_right(starts, time) - 1)
        span, count = spans[number], counts[number]
        place = int((time - span.start) / span.seconds * count)
        audio[number][min(max(place, 0), count - 1)] += seconds
    return [
        Bin(span.start + place * span.seconds / count, span.seconds / count, own)
        for span, count, bins in zip(spans, counts, audio, strict=True)
        for place, own in enumerate(bins)
    ]


def time_ticks(axis: TimeAxis) -> list[Tick]:
    """Labels at round times and at the start of each span, in UTC."""
    step = _step(sum(span.seconds for span in axis.spans) / 5)
    ticks: list[Tick] = []
    day = ""
    for span in axis.spans:
        first = math.ceil(span.start / step)
        round_times = [step * n for n in range(first, min(first + 10, int(span.end // step) + 1))]
        times = [span.start, *round_times]
        for number, time in enumerate(times):
            date = moment(time, "%d %b")
            ticks.append(Tick(axis.at(time), _label(time, step, date != day and number == 0)))
            day = date
    return spread(ticks, gap=11.0, narrow_gap=30.0)


def _step(seconds: float) -> float:
    days = max(1, math.ceil(seconds / _DAY))
    return next((step for step in _STEPS if step >= seconds), days * _DAY)


def _label(time: float, step: float, with_date: bool) -> str:
    if step >= _DAY:
        return moment(time, "%d %b")
    clock = moment(time, "%H:%M:%S" if step < 60 else "%H:%M")
    return f"{moment(time, '%d %b')} {clock}" if with_date else clock
