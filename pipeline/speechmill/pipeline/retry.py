"""How long to wait before another try."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double, with a jitter that is the same for the same key and attempt."""

    first: float  # s
    longest: float  # s

    def delay(self, key: str, attempt: int) -> float:
        """Seconds to wait after the `attempt`-th failure (the first is 1)."""
        whole = min(self.longest, self.first * 2.0 ** min(attempt - 1, 60))
        return whole * (0.5 + 0.5 * _chance(key, attempt))


def _chance(key: str, attempt: int) -> float:
    """A number in [0, 1) that looks random and is not."""
    digest = hashlib.sha256(f"{key}#{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
