"""The rows of one shard in a dataset: a part, or a section of a file that `compact` made of many.

The footer of such a file says what the footers of its parts say, with equal facts once.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speechmill.pipeline.dataset.layout import COMPACTED

PART_NAME = re.compile(r"[^/]+-[0-9a-f]{12}")  # <tar>-<12 hex>
_SUMS = ("rows", "frames", "audio_seconds", "bad_json", "cleaned", "passed_over")
_OWN = (*_SUMS, "rejects", "source")  # of each part, though they may be equal


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one shard, as a stretch of a file."""

    file: str  # name of the file below `tokens/`, without suffix
    part: str  # name that the shard has as a part
    first: int  # row of the file
    footer: dict[str, Any]  # that of the part

    @property
    def rows(self) -> int:
        return int(self.footer["rows"])

    @property
    def rejects(self) -> int:
        return sum(self.footer["rejects"].values())


def joined_footer(parts: Sequence[str], footers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The footer of a file that holds the rows of these parts; it has at least one."""
    shared = {
        name: value
        for name, value in footers[0].items()
        if name not in _OWN and all(footer.get(name) == value for footer in footers)
    }
    own = [
        {"part": part} | {name: footer[name] for name in footer if name not in shared}
        for part, footer in zip(parts, footers, strict=True)
    ]
    rejects: Counter[str] = Counter()
    for footer in footers:
        rejects.update(footer["rejects"])
    sums = {
        name: sum(footer.get(name, 0) for footer in footers)
        for name in _SUMS
        if any(name in footer for footer in footers)
    }
    return {**shared, **sums, "rejects": dict(sorted(rejects.items())), COMPACTED: {"parts": own}}


def sections_in(file: str, footer: dict[str, Any]) -> list[Section]:
    """The sections of a file in the order of its rows; one if it is a part.

    Raises `ValueError` if they are damaged.
    """
    if COMPACTED not in footer:
        return [Section(file, file, 0, footer)]
    shared = {
        name: value for name, value in footer.items() if name not in _OWN and name != COMPACTED
    }
    found, first = [], 0
    for own in footer[COMPACTED]["parts"]:
        whole = shared | {name: value for name, value in own.items() if name != "part"}
        if not PART_NAME.fullmatch(own["part"]):  # files are named after it
            raise ValueError(f"{own['part']!r} is not the name of a part")
        found.append(Section(file, own["part"], first, whole))
        first += found[-1].rows
    whole = joined_footer([one.part for one in found], [one.footer for one in found])
    if any(footer.get(name) != whole[name] for name in whole if name != COMPACTED):
        raise ValueError("its footer is not the sum of those of its parts")
    return found
