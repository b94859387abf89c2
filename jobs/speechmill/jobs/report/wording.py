"""Numbers, times and the texts of strangers, as the pages show them."""

from datetime import UTC, datetime
from typing import Any

from speechmill.pipeline.redaction import public_text
from speechmill.pipeline.text import shown

_LONGEST = 10_000  # characters of a text that are looked at
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def limited(text: Any, limit: int = 200) -> str:
    """A text of a stranger: public, without control characters, and not longer than `limit`."""
    line = shown(public_text(str(text)[:_LONGEST]))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def ending(text: Any, limit: int = 60) -> str:
    """The end of a long name or URL, which tells it from others."""
    line = limited(text, _LONGEST)
    return line if len(line) <= limit else f"…{line[1 - limit :]}"


def short(number: float) -> str:
    """Three digits and a unit: 950, 12.3 k, 4.56 M."""
    for unit, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * unit and number >= 9995:
            return f"{_three(number / unit)}{name}"
    return f"{number:,.0f}"


def _three(number: float) -> str:
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f}"


def audio_length(seconds: float) -> str:
    """Hours, or seconds if it is less than six minutes."""
    hours = seconds / 3600
    if seconds < 360:
        return f"{seconds:,.1f} s"
    return f"{hours:,.{2 if hours < 100 else 1 if hours < 1000 else 0}f} h"


def lasted(seconds: float) -> str:
    """A time in its two largest units: 2 d 3 h, 4 min 20 s, 3.2 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    counts = []
    for size, name in _UNITS:
        counts.append((left // size, name))
        left %= size
    first = next(place for place, (count, _) in enumerate(counts) if count)
    return " ".join(f"{count:,} {name}" for count, name in counts[first : first + 2] if count)


def counted(number: int, noun: str) -> str:
    """1 part, 2,000 parts."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def share(part: float, whole: float) -> str:
    """A percentage; one above 0 is never shown as 0."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.01:
        return "< 0.01 %"
    return f"{percent:.{0 if percent >= 99.95 or not percent else 1 if percent >= 1 else 2}f} %"


def moment(time: float, pattern: str = "%d %b %Y, %H:%M") -> str:
    """A time in UTC."""
    return datetime.fromtimestamp(time, UTC).strftime(pattern)
