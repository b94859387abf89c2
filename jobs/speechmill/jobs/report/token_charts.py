"""Charts of what the rows hold: durations, and how codebooks are used."""

import math

import numpy as np
import numpy.typing as npt

from speechmill.jobs.report.charts import Bar, Chart, Tick, histogram, plain, scale, spread
from speechmill.jobs.report.parts import Contents
from speechmill.jobs.report.wording import counted
from speechmill.pipeline.quality.codebook_usage import CodebookUse, CodeCounts

_LABELS = 20  # of codebooks on the axis


def duration_chart(durations_N: npt.NDArray[np.float64]) -> Chart | None:
    """The shares of utterances by their duration; None without any."""
    if not len(durations_N):
        return None
    found = histogram(durations_N)
    shares = [100 * count / len(durations_N) for count in [*found.counts, found.beyond]]
    names = [
        *(
            f"{plain(n * found.width)} to {plain((n + 1) * found.width)} s"
            for n in range(len(found.counts))
        ),
        f"over {plain(found.end)} s",
    ]
    if not found.beyond:
        shares, names = shares[:-1], names[:-1]
    end, ticks = scale(max(shares), " %")
    width = 100 / len(shares)
    low, middle, high = np.quantile(durations_N, [0.05, 0.5, 0.95])
    beyond = f" The last bar is all over {plain(found.end)} s." if found.beyond else ""
    bars = [
        Bar(
            n * width,
            width,
            value / end,
            f"{name}: {value:.2f} %",
            "soft" if n == len(found.counts) else "main",
        )
        for n, (name, value) in enumerate(zip(names, shares, strict=True))
    ]
    marks = [Tick(n * width, plain(n * found.width)) for n in range(len(found.counts) + 1)]
    return Chart(
        title="Durations",
        description=f"Median {middle:.2f} s; 90 % are from {low:.2f} to {high:.2f} s; the longest "
        f"has {durations_N.max():,.1f} s.{beyond}",
        y_unit="share of utterances",
        y_ticks=ticks,
        x_ticks=spread(marks, gap=9.0, narrow_gap=16.0),
        x_unit="duration, s",
        bars=bars,
        headings=("duration", "share"),
        rows=[(name, f"{value:.2f} %") for name, value in zip(names, shares, strict=True)],
    )


def codebook_chart(counts: CodeCounts) -> Chart | None:
    """How many entries of each codebook occur, and its perplexity; None without codes."""
    if not counts.frames:
        return None
    uses = counts.use()
    slot = 100 / len(uses)
    bars = []
    for book, use in enumerate(uses):
        used, even = use.used / use.size, use.perplexity / use.size
        entries = f"{use.used:,} of {use.size:,} entries"
        label = f"codebook {book}: {entries}, perplexity {use.perplexity:,.0f}"
        bars.append(Bar(book * slot + 0.1 * slot, 0.8 * slot, used, label, "soft"))
        text = f"{use.perplexity:,.0f}" if len(uses) <= _LABELS else ""
        bars.append(Bar(book * slot + 0.25 * slot, 0.5 * slot, even, label, "main", text))
    centres = [Tick((book + 0.5) * slot, str(book)) for book in range(len(uses))]
    rare = (
        ""
        if counts.frames > 20 * max(use.size for use in uses)
        else (
            f" {counts.frames:,} frames are few for such codebooks: more would show more entries."
        )
    )
    return Chart(
        title="Codebooks",
        description="Grey: entries that occur. Blue: perplexity, the number of equally frequent "
        f"entries with the same entropy. Both as shares of the codebook.{rare}",
        y_unit="share of the entries",
        y_ticks=[Tick(n / 4, f"{25 * n} %") for n in range(5)],
        x_ticks=spread(centres, gap=100 / _LABELS, narrow_gap=9.0),
        x_unit="codebook",
        bars=bars,
        headings=("codebook", "entries", "used", "perplexity", "entropy, bit", "of"),
        rows=[_row(book, use) for book, use in enumerate(uses)],
    )


def _row(book: int, use: CodebookUse) -> tuple[str, ...]:
    most = f"{math.log2(use.size):.2f}"
    return (
        str(book),
        f"{use.size:,}",
        f"{use.used:,}",
        f"{use.perplexity:,.1f}",
        f"{use.entropy:.2f}",
        most,
    )


def rate_facts(contents: Contents, counts: CodeCounts, sizes: tuple[int, ...]) -> dict[str, str]:
    """Tokens and bits for each second of audio."""
    rate = contents.frames / contents.audio if contents.audio else 0.0
    nominal = rate * sum(map(math.log2, sizes)) / 1000
    mean = contents.frames * len(sizes) / contents.rows if contents.rows else 0.0
    return {
        "token rate": f"{rate * len(sizes):,.1f} tokens/s: {counted(len(sizes), 'codebook')}, "
        f"{rate:.4g} frames/s",
        "bit rate": f"{nominal:.3f} kbit/s; an ideal coder of single codes needs "
        f"{counts.entropy_kbps(len(sizes), rate):.3f}",
        "an utterance": f"{mean:,.0f} tokens on average",
    }
