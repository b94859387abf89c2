"""Patterns: where each code of an utterance stands in what a language model reads, and back.

A dataset stores codes un-delayed and un-offset. A pattern must be applied once: a reader that
applies it a second time gets noise.

    flatten          one sequence, frame after frame
    codebook-major   one sequence, codebook after codebook
    coarse-fine      one sequence: the coarse codebooks of all frames, then the fine ones
    semantic         one sequence of the first codebook
    parallel         rows of one frame each
    delay            rows in which codebook k comes `shifts[k]` rows late
    groups           rows of several frames each

Rows have a column for each stream, for models with a head for each codebook. A sequence has ids,
with a range for each codebook; `flat` makes one of rows. Where a row has no code it has padding,
which is the size of the codebook.

Their common base class is in `pattern.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from speechmill.pipeline.dataset.pattern import Numbers, Pattern, is_int
from speechmill.pipeline.errors import InputError, check_choice

_LARGEST = 10_000  # shift or group; a larger one is a mistake that fills the memory


@dataclass(frozen=True, slots=True)
class Flatten(Pattern):
    """Frame after frame (MusicGen, section 2.2: flattening)."""

    name: ClassVar[str] = "flatten"
    in_order: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class CodebookMajor(Pattern):
    """All frames of the first codebook, then all of the second, and so on.

    VALL-E predicts in this order (section 4.2): the first codebook autoregressively, then each of
    the others given those before it.
    """

    name: ClassVar[str] = "codebook-major"

    def _place(self, frame_N: Numbers, num_frames_N: Numbers, book: int) -> Numbers:
        return book * num_frames_N + frame_N


@dataclass(frozen=True, slots=True)
class CoarseFine(Pattern):
    """The coarse codebooks frame after frame, then the fine ones (AudioLM, section III)."""

    coarse: int = field(default=1, kw_only=True)  # how many codebooks, the first ones

    name: ClassVar[str] = "coarse-fine"

    def _check(self) -> None:
        if not is_int(self.coarse, 1, len(self.sizes) - 1):
            raise InputError(
                f"coarse is {self.coarse!r} of {len(self.sizes)} codebooks; coarse-fine needs at "
                "least one coarse and one fine"
            )

    def _place(self, frame_N: Numbers, num_frames_N: Numbers, book: int) -> Numbers:
        if book < self.coarse:
            return frame_N * self.coarse + book
        fine = len(self.sizes) - self.coarse
        return num_frames_N * self.coarse + frame_N * fine + (book - self.coarse)


@dataclass(frozen=True, slots=True)
class Semantic(Pattern):
    """The first codebook, the semantic one; `decode` gives codes_F1."""

    name: ClassVar[str] = "semantic"
    in_order: ClassVar[bool] = True

    @property
    def kept_sizes(self) -> tuple[int, ...]:
        return self.sizes[:1]


@dataclass(frozen=True, slots=True)
class Rows(Pattern):
    """A pattern of rows with a column for each stream."""

    flattened: bool = field(default=False, kw_only=True)  # one row after the other, as ids

    @property
    def streams(self) -> tuple[int, ...] | None:
        return None if self.flattened else self._columns

    def flat(self) -> Pattern:
        return replace(self, flattened=True)

    def _check(self) -> None:
        if not isinstance(self.flattened, bool):
            raise InputError(f"flattened is {self.flattened!r}; give true or false")

    @property
    def _columns(self) -> tuple[int, ...]:
        return tuple(range(len(self.sizes)))


@dataclass(frozen=True, slots=True)
class Parallel(Rows):
    """Row t is frame t (MusicGen, section 2.2: parallel)."""

    name: ClassVar[str] = "parallel"
    in_order: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Delay(Rows):
    """Codebook k comes `shifts[k]` rows late (MusicGen, section 2.2: delay)."""

    shifts: tuple[int, ...] = field(default=(), kw_only=True)  # default 0, 1, 2, …

    name: ClassVar[str] = "delay"
    pads: ClassVar[bool] = True

    def _check(self) -> None:
        Rows._check(self)  # `super()` is for classes without slots
        shifts, count = self.shifts, len(self.sizes)
        right = isinstance(shifts, tuple) and len(shifts) in (0, count)
        if not right or not all(is_int(shift, 0, _LARGEST) for shift in shifts):
            shown = list(shifts) if isinstance(shifts, tuple) else repr(shifts)
            raise InputError(
                f"shifts {shown} are not {count} numbers in 0..{_LARGEST}, one for each codebook"
            )
        object.__setattr__(self, "shifts", self.shifts or tuple(range(len(self.sizes))))

    def _num_rows(self, num_frames_B: Numbers) -> Numbers:
        return num_frames_B + max(self.shifts)

    def _place(self, frame_N: Numbers, num_frames_N: Numbers, book: int) -> Numbers:
        return (frame_N + self.shifts[book]) * len(self.sizes) + book

    def _num_frames(self, cells: Numbers) -> int:
        return len(cells) // len(self.sizes) - max(self.shifts)

    @property
    def _lengths(self) -> str:
        return f"rows of {len(self.sizes)} codebooks, at least {max(self.shifts)} of them"


@dataclass(frozen=True, slots=True)
class Groups(Rows):
    """Rows of several frames, one after the other, as VALL-E 2 groups codes; the last is padded."""

    frames: int = field(default=2, kw_only=True)  # of a row

    name: ClassVar[str] = "groups"
    pads: ClassVar[bool] = True

    def _check(self) -> None:
        Rows._check(self)
        if not is_int(self.frames, 1, _LARGEST):
            raise InputError(f"frames is {self.frames!r}; a group has 1 to {_LARGEST} frames")

    @property
    def _columns(self) -> tuple[int, ...]:
        return tuple(range(len(self.sizes))) * self.frames

    def _num_rows(self, num_frames_B: Numbers) -> Numbers:
        return -(-num_frames_B // self.frames)

    def _num_frames(self, cells: Numbers) -> int:
        return int(np.count_nonzero(cells[:: len(self.sizes)] != self._empty_row()[0]))

    @property
    def _lengths(self) -> str:
        return f"groups of {self.frames} frames of {len(self.sizes)} codes, only the last padded"


PATTERNS: dict[str, type[Pattern]] = {
    kind.name: kind
    for kind in (Flatten, CodebookMajor, CoarseFine, Semantic, Parallel, Delay, Groups)
}


def make_pattern(name: str, sizes: Sequence[int], **settings: Any) -> Pattern:
    """The pattern of this name; raises `InputError` for a setting that it does not have."""
    check_choice("pattern", name, PATTERNS)
    known = PATTERNS[name].settings()
    for setting in settings:
        if setting not in known:
            others = [each for each, kind in PATTERNS.items() if setting in kind.settings()]
            raise InputError(
                f"the pattern {name} has no {setting}; {', '.join(others) or 'no pattern'} has"
            )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    if not isinstance(sizes, Sequence):
        raise InputError(f"codebook sizes are {sizes!r}; give a list, such as [1024] for one")
    return PATTERNS[name](tuple(sizes), **values)


def pattern_from(description: dict[str, Any]) -> Pattern:
    """The pattern of a `description()`, as an export or a model states it."""
    try:
        facts = dict(description)
        name, version, sizes = (facts.pop(k) for k in ("name", "version", "codebook_sizes"))
        check_choice("pattern", name, PATTERNS)
        if version != PATTERNS[name].version:
            raise InputError(
                f"the pattern {name} is of version {version!r}; this version of speechmill knows "
                f"{PATTERNS[name].version}; install the one that wrote it"
            )
        return make_pattern(name, sizes, **facts)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{description} is not the description of a pattern: {error!r}") from error
