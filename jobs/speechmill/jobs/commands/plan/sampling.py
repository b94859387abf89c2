"""A sample of shards, stratified by size, and what it says about all of them.

A combined ratio estimator over strata (Cochran, Sampling Techniques, section 6.11): the sum of a
value over all shards is their bytes times the ratio of value to bytes in the sample, in which each
stratum has its weight.
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, zip_longest
from math import hypot, inf, sqrt
from typing import TypeVar

_STRATA = 4
_SHARDS = 4  # at least, of a stratum
_GIANT, _TIMES = 1 / 8, 4.0  # of all bytes, and times the median size: the least of a giant
_OBSERVED = 2  # at least, to know its spread
_QUANTILE = 1.6449  # of the normal distribution, for an interval of 90 %
_QUANTILES = (6.3138, 2.92, 2.3534, 2.1318)  # of Student's distribution with 1, 2, 3, 4 degrees

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with the half width of its interval of 90 %."""

    value: float
    error: float | None  # None: too few shards to know; 0: exact

    @property
    def low(self) -> float | None:
        return None if self.error is None else max(0.0, self.value - self.error)

    @property
    def high(self) -> float | None:
        return None if self.error is None else self.value + self.error

    @property
    def relative(self) -> float | None:
        """The error as a share of the value; None if it is not known."""
        return self.error / self.value if self.error is not None and self.value else self.error

    def times(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, None if self.error is None else self.error * factor)


@dataclass(frozen=True, slots=True)
class Observed:
    """A value of one shard, of which the first bytes may have been read only."""

    size: int  # bytes of the tar
    read: float  # of them
    value: float  # in what was read
    fixed: float = 0.0  # the part of the value that does not grow with the shard

    @property
    def whole_value(self) -> float:
        """The value of the whole shard, if it goes on as it begins."""
        if self.read >= self.size:
            return self.value
        return self.fixed + (self.value - self.fixed) * self.size / self.read


@dataclass(frozen=True, slots=True)
class Stratum:
    """Shards of similar size, and what was observed of some."""

    count: int
    size: int  # bytes of all its shards
    observed: tuple[Observed, ...]

    @property
    def weight(self) -> float:
        """How many shards one observed shard stands for."""
        return self.count / len(self.observed)

    @property
    def unread(self) -> float:
        """The share of its bytes that was not read; 0 leaves nothing to estimate."""
        read = sum(min(one.read, one.size) for one in self.observed)
        return max(0.0, 1 - read / self.size) if self.size else 0.0

    @property
    def is_giant(self) -> bool:
        """Whether it is one shard, which stands for itself."""
        return self.count == len(self.observed) == 1

    def joined(self, other: "Stratum") -> "Stratum":
        return Stratum(
            self.count + other.count, self.size + other.size, self.observed + other.observed
        )


def stratify(items: Sequence[Item], size: Callable[[Item], int]) -> list[list[Item]]:
    """Return the items in strata of rising size that hold about as many bytes each.

    A giant is a stratum of its own, because no other item can stand for it.
    """
    ordered = sorted(items, key=size)
    total = sum(map(size, ordered))
    least = max(total * _GIANT, _TIMES * size(ordered[len(ordered) // 2])) if ordered else 0
    giants = [item for item in ordered if size(item) > least]
    return [*_equal_strata(ordered[: len(ordered) - len(giants)], size), *([g] for g in giants)]


def _equal_strata(ordered: Sequence[Item], size: Callable[[Item], int]) -> list[list[Item]]:
    count = max(1, min(_STRATA, len(ordered) // _SHARDS))
    ends = list(accumulate(map(size, ordered)))
    bounds = [bisect_left(ends, ends[-1] * (k + 1) / count) + 1 for k in range(count)]
    starts = [0, *bounds[:-1]]
    return [list(ordered[a:b]) for a, b in zip(starts, bounds, strict=True) if ordered[a:b]]


def probing_order(strata: Sequence[Sequence[Item]], seed: int = 0) -> list[Item]:
    """Return all items, one of each stratum in turn, in random order within each."""
    chance = random.Random(seed)
    shuffled = [chance.sample(list(stratum), len(stratum)) for stratum in strata]
    missing = object()
    turns = chain.from_iterable(zip_longest(*shuffled, fillvalue=missing))
    return [item for item in turns if item is not missing]  # type: ignore[misc]


def estimate_sum(strata: Sequence[Stratum]) -> Estimate:
    """Return the sum of a value over all shards; if none was observed, 0 of unknown error."""
    joined = _large_enough(strata)
    if not joined:
        return Estimate(0.0, None if strata else 0.0)
    pairs = [(stratum, one) for stratum in joined for one in stratum.observed]
    values = sum(stratum.weight * one.whole_value for stratum, one in pairs)
    sizes = sum(stratum.weight * one.size for stratum, one in pairs)
    ratio = values / sizes if sizes else 0.0
    total = ratio * sum(stratum.size for stratum in joined)
    spreads = [_variance(stratum, ratio, joined) for stratum in joined]
    if inf in spreads:
        return Estimate(total, None)
    return Estimate(total, _half_width(joined, spreads))


def agreed(sampled: Estimate, finished: Estimate | None) -> tuple[Estimate, bool]:
    """Return one estimate from that of a random sample and that of finished shards.

    Both are weighted by their errors, unless they differ by more than these allow: finished shards
    are no random sample of the rest, so the sample alone counts then, and the second result is
    false.
    """
    if finished is None or sampled.error == 0 or not finished.error:
        return sampled, finished is None or sampled.error == 0
    if not sampled.error:
        return finished, True
    if abs(sampled.value - finished.value) > hypot(sampled.error, finished.error):
        return sampled, False
    own, other = sampled.error**-2, finished.error**-2
    value = (sampled.value * own + finished.value * other) / (own + other)
    return Estimate(value, (own + other) ** -0.5), True


def _large_enough(strata: Sequence[Stratum]) -> list[Stratum]:
    """Join strata with too few observed shards to the next one."""
    joined: list[Stratum] = []
    for stratum in strata:
        if joined and (_is_thin(joined[-1]) or _is_thin(stratum)):
            joined[-1] = joined[-1].joined(stratum)
        else:
            joined.append(stratum)
    return [stratum for stratum in joined if stratum.observed]


def _is_thin(stratum: Stratum) -> bool:
    few = len(stratum.observed) < _OBSERVED and stratum.unread > 0
    return not stratum.observed or (few and not stratum.is_giant)


def _variance(stratum: Stratum, ratio: float, others: Sequence[Stratum]) -> float:
    """The variance of the estimated sum that comes from one stratum; infinite if not known.

    A giant that was cut is taken to vary as the parts of other shards do, for each of its bytes.
    """
    if not stratum.unread:
        return 0.0
    count = len(stratum.observed)
    if count >= _OBSERVED:
        spread = _spread([one.whole_value - ratio * one.size for one in stratum.observed])
        return stratum.count**2 * stratum.unread * spread / count
    known = [one for other in others for one in other.observed if one.size]
    if not stratum.is_giant or len(known) <= _OBSERVED:
        return inf
    spread = _spread([one.whole_value / one.size for one in known])
    return stratum.size**2 * stratum.unread * spread


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _half_width(strata: Sequence[Stratum], variances: Sequence[float]) -> float:
    """Half of the interval of 90 %, with Satterthwaite's degrees of freedom."""
    variance = sum(variances)
    if not variance:
        return 0.0
    parts = zip(strata, variances, strict=True)
    shares = sum(own**2 / max(1, len(one.observed) - 1) for one, own in parts if own)
    return _quantile(variance**2 / shares) * sqrt(variance)


def _quantile(degrees: float) -> float:
    """The 0.95 quantile of Student's distribution (Abramowitz and Stegun, 26.7.5)."""
    if degrees < len(_QUANTILES) + 1:
        return _QUANTILES[max(0, int(degrees) - 1)]
    z = _QUANTILE
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
