"""The charts that a run and a dataset share: audio over time, and speed over time."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from speechmill.jobs.report.charts import Bar, Chart, scale, thinned
from speechmill.jobs.report.logs import Commit, Run, commits_of
from speechmill.jobs.report.timeline import (
    Bin,
    TimeAxis,
    throughput,
    time_axis,
    time_ticks,
    working_spans,
)
from speechmill.jobs.report.wording import audio_length, lasted, moment

_MOST_POINTS = 500


def time_charts(runs: Sequence[Run]) -> list[Chart]:
    """Progress and speed over the time of these runs; none if they committed nothing."""
    commits = first_commits(runs)
    if not commits:
        return []
    working = working_spans(runs)
    axis = time_axis(working)
    seconds = sum(span.seconds for span in working)
    return [_progress(axis, commits), _speed(axis, commits, seconds)]


def first_commits(runs: Sequence[Run]) -> list[Commit]:
    """The commits by time; a shard that ran twice counts at its first, which is the part."""
    first: dict[str, Commit] = {}
    for commit in sorted(commits_of(runs), key=lambda commit: commit.time):
        first.setdefault(commit.shard, commit)
    return list(first.values())


def _progress(axis: TimeAxis, commits: Sequence[Commit]) -> Chart:
    totals = list(accumulate(commit.audio for commit in commits))
    total = totals[-1]
    points = list(zip((commit.time for commit in commits), totals, strict=True))
    unit, seconds = ("h", 3600.0) if total >= 360 else ("s", 1.0)
    end, ticks = scale(total / seconds)
    line = [(axis.at(time), audio / seconds / end) for time, audio in thinned(points, _MOST_POINTS)]
    return Chart(
        title="Audio committed",
        description=f"{audio_length(total)} of audio in {len(commits):,} shards. {_gaps(axis)}",
        y_unit=f"{'hours' if unit == 'h' else 'seconds'} of audio",
        y_ticks=ticks,
        x_ticks=time_ticks(axis),
        x_unit="time, UTC",
        line=[(0.0, 0.0), *line, (100.0, total / seconds / end)],
        bands=axis.bands,
        headings=("until", "audio"),
        rows=[(moment(time), audio_length(audio)) for time, audio in _ends_of_spans(axis, points)],
    )


def _ends_of_spans(
    axis: TimeAxis, points: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """The last point of each span."""
    ends = [bisect_right(points, (span.end, math.inf)) - 1 for span in axis.spans]
    return [points[place] for place in sorted(set(ends)) if place >= 0]


def _speed(axis: TimeAxis, commits: Sequence[Commit], seconds: float) -> Chart:
    bins = throughput(axis.spans, [(commit.time, commit.audio) for commit in commits])
    top = max(bin.rate for bin in bins)
    end, ticks = scale(top)
    mean = sum(commit.audio for commit in commits) / seconds
    return Chart(
        title="Speed",
        description=f"On average {mean:,.0f} x real time, at most {top:,.0f}, in bars of up to "
        f"{lasted(max(bin.seconds for bin in bins))}. A shard counts when it is committed. "
        f"{_gaps(axis)}",
        y_unit="x real time",
        y_ticks=ticks,
        x_ticks=time_ticks(axis),
        x_unit="time, UTC",
        bars=[_bar(axis, bin, end) for bin in bins],
        bands=axis.bands,
        headings=("from", "for", "audio", "x real time"),
        rows=[_row(bin) for bin in bins],
    )


def _bar(axis: TimeAxis, bin: Bin, end: float) -> Bar:
    label = f"{moment(bin.start, '%d %b %H:%M:%S')}, {lasted(bin.seconds)}: {bin.rate:,.1f} x"
    return Bar(axis.at(bin.start), bin.seconds * axis.scale, bin.rate / end, label)


def _row(bin: Bin) -> tuple[str, ...]:
    start = moment(bin.start, "%d %b %H:%M:%S")
    return start, lasted(bin.seconds), audio_length(bin.audio), f"{bin.rate:,.1f}"


def _gaps(axis: TimeAxis) -> str:
    return "Hatched: nothing ran; long gaps are not to scale." if axis.bands else ""
