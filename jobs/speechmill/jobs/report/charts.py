"""Charts as numbers: where axes, bars and lines are. `charts.html` draws them as SVG.

Across, places are percent of the width, so that a chart fits every screen while its texts keep
their size; upwards, they are shares of the height.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

_MOST_BARS = 40  # of a histogram
_TAIL = 0.995  # of the values are in the bars; longer ones share the last
_NEAR = 1.5  # times as long as these, or less: then the longest value has a bar of its own, too
_WIDTHS = tuple(m * 10**e for e in range(-3, 7) for m in (1, 2, 2.5, 5))


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis; a minor one is left out where the screen is narrow."""

    at: float
    label: str
    minor: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with its tooltip; `kind` is a class of the style sheet."""

    x: float
    width: float
    height: float
    label: str
    kind: str = "main"
    text: str = ""  # above the bar, where the screen is wide


@dataclass(frozen=True, slots=True)
class Band:
    """A part of the time in which nothing ran."""

    x: float
    width: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with all that is written at it; `rows` are its numbers as a table."""

    title: str
    description: str  # for those who do not see it
    y_unit: str
    y_ticks: list[Tick]
    x_ticks: list[Tick]
    x_unit: str = ""
    bars: list[Bar] = field(default_factory=list)
    line: list[tuple[float, float]] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    headings: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The line as steps, in a box of 1000 by 1000."""
        if not self.line:
            return ""
        (x0, y0), *rest = [(10 * x, 1000 * (1 - y)) for x, y in self.line]
        return f"M{x0:.1f} {y0:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values in bins of equal width from 0; `beyond` are larger than all bins."""

    width: float
    counts: list[int]
    beyond: int

    @property
    def end(self) -> float:
        return self.width * len(self.counts)


def histogram(values_N: npt.NDArray[np.float64]) -> Histogram:
    """Count values from 0 up in bins of a round width."""
    if not len(values_N):
        return Histogram(1.0, [], 0)
    longest, top = float(values_N.max()), float(np.quantile(values_N, _TAIL))
    top = max(longest if longest <= _NEAR * top else top, 1e-3)
    width = next((width for width in _WIDTHS if top / width < _MOST_BARS), top / _MOST_BARS * 1.01)
    bins = math.floor(top / width) + 1
    counts = np.bincount(np.minimum(values_N // width, bins).astype(np.int64), minlength=bins + 1)
    return Histogram(width, counts[:bins].tolist(), int(counts[bins]))


def nice_step(top: float, steps: int) -> float:
    """The least round number of which `steps` reach `top`."""
    if not top > 0:
        return 1.0
    raw = top / steps
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999999)


def scale(top: float, unit: str = "", steps: int = 4) -> tuple[float, list[Tick]]:
    """The end of an axis that holds `top`, and its ticks."""
    step = nice_step(top, steps)
    count = max(1, math.ceil(top / step - 1e-9))
    end = step * count
    ticks = [Tick(number / count, plain(step * number) + unit) for number in range(count + 1)]
    return end, ticks


def plain(number: float) -> str:
    """A round number without zeros at its end."""
    return f"{number:,.6g}" if number >= 1e-3 or not number else f"{number:.2g}"


def spread(ticks: Iterable[Tick], gap: float, narrow_gap: float) -> list[Tick]:
    """Leave out ticks that come too near, and mark those that are too near on narrow screens."""
    kept: list[Tick] = []
    last = last_major = -math.inf
    for tick in ticks:
        if tick.at - last < gap:
            continue
        minor = tick.at - last_major < narrow_gap
        last, last_major = tick.at, last_major if minor else tick.at
        kept.append(Tick(tick.at, tick.label, minor))
    return kept


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most about so many of the points, with the first and the last."""
    stride = max(1, math.ceil(len(points) / most))
    return [*points[:-1:stride], *points[-1:]]
