"""The shapes of batches on a GPU: few and fixed, so that a clip always meets the same kernels.

Below float32 the codes depend on the order in which a matrix product sums, and a GPU chooses it by
the product's shape. Therefore a clip goes into a batch whose width follows from the clip's own
length, and whose number of rows is fixed for this width. Rows without a clip are silence.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, log2

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.errors import InvalidAudio, InvalidConfig

_SHORTEST = 1.0  # s, of the narrowest width
_MOST_SECONDS = 3600
_MOST_ROWS = 4096
_MOST_WIDTHS = 64
_QUANTUM = 0.16  # s; 8 columns of attention at 50 Hz: kernels are fastest for multiples of 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeSettings:
    """What decides the shapes of a codec's batches; a token dataset records it."""

    seconds: float = 160.0  # in one batch, with padding; a longer clip is a batch of its own
    max_rows: int = 32
    widths_per_octave: int = 8
    longest_seconds: float = 320.0  # of a clip

    def __post_init__(self) -> None:
        whole = isinstance(self.max_rows, int) and isinstance(self.widths_per_octave, int)
        in_range = (
            0 < self.seconds <= _MOST_SECONDS,
            0 < self.max_rows <= _MOST_ROWS,
            0 < self.widths_per_octave <= _MOST_WIDTHS,
            _SHORTEST <= self.longest_seconds <= _MOST_SECONDS,
        )
        if not (whole and all(in_range)):
            raise InvalidConfig(
                f"no batches have the shapes of {self}; seconds and longest_seconds may be up to "
                f"{_MOST_SECONDS}, max_rows {_MOST_ROWS}, widths_per_octave {_MOST_WIDTHS}"
            )


@dataclass(frozen=True, slots=True)
class BatchShapes:
    """The widths of batches, in samples and in rising order, and the rows for each of them."""

    widths: tuple[int, ...]
    rows: tuple[int, ...]

    def bucket(self, num_samples: int) -> int:
        """Return the position of the narrowest width that holds a clip.

        Raises `InvalidAudio` for a clip that is longer than the longest width.
        """
        if num_samples > self.widths[-1]:
            raise InvalidAudio(
                f"a clip of {num_samples} samples is longer than the longest batch, "
                f"{self.widths[-1]}; cut it"
            )
        return bisect_left(self.widths, num_samples)


def plan_shapes(info: CodecInfo, settings: ShapeSettings) -> BatchShapes:
    """Return the shapes for a codec: widths of whole frames, equally spaced in each octave."""
    quantum = info.hop_length * max(1, round(_QUANTUM * info.sample_rate / info.hop_length))
    widths = {
        ceil(seconds * info.sample_rate / quantum) * quantum
        for seconds in _spaced(settings.longest_seconds, settings.widths_per_octave)
    }
    budget = settings.seconds * info.sample_rate
    rows = [max(1, min(settings.max_rows, int(budget / width))) for width in sorted(widths)]
    return BatchShapes(tuple(sorted(widths)), tuple(rows))


def _spaced(longest: float, per_octave: int) -> Iterator[float]:
    """Yield lengths in seconds from the shortest to the longest."""
    seconds = _SHORTEST
    while seconds < longest:
        yield seconds
        seconds += 2 ** floor(log2(seconds)) / per_octave
    yield longest
