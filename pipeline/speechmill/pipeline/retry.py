"""How long to wait before another attempt."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with a jitter that depends only on the key and the attempt."""

    first: float  # s
    longest: float  # s

    def delay(self, key: str, attempt: int) -> float:
        """Seconds to wait after the `attempt`-th failure (the first is 1)."""
        whole = min(self.longest, self.first * 2.0 ** min(attempt - 1, 60))
        return whole * (0.5 + 0.5 * _fraction(key, attempt))


def _fraction(key: str, attempt: int) -> float:
    """A pseudo-random number in [0, 1)."""
    digest = hashlib.sha256(f"{key}#{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
