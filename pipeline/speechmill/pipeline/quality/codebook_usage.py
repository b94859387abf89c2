"""How a codec uses its codebooks over a test set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class CodebookUse:
    """The use of one codebook; the entropy is that of single codes, estimated from their counts."""

    size: int
    used: int  # entries that occur at least once
    entropy: float  # bit per code
    perplexity: float  # 2 ** entropy: the number of equally likely entries with this entropy


class CodeCounts:
    """Counts of every entry of every codebook."""

    def __init__(self, codebook_sizes: Sequence[int]):
        self._counts = [np.zeros(size, np.int64) for size in codebook_sizes]

    @property
    def frames(self) -> int:
        """Number of frames; with far fewer frames than entries, the entropy is too low."""
        return int(self._counts[0].sum())

    def add(self, codes_KF: npt.NDArray[np.int64]) -> None:
        for counts, codes_F in zip(self._counts, codes_KF, strict=True):
            counts += np.bincount(codes_F, minlength=len(counts))

    def use(self) -> list[CodebookUse]:
        return [_use(counts) for counts in self._counts]

    def entropy_kbps(self, num_codebooks: int, frame_rate: float) -> float:
        """Bit rate of an ideal entropy coder for the first codebooks, kbit/s."""
        return frame_rate * sum(use.entropy for use in self.use()[:num_codebooks]) / 1000


def _use(counts: npt.NDArray[np.int64]) -> CodebookUse:
    seen = counts[counts > 0]
    share = seen / max(seen.sum(), 1)
    entropy = float(-(share * np.log2(share)).sum()) + 0.0  # turns -0.0 into 0.0
    return CodebookUse(len(counts), len(seen), entropy, 2.0**entropy)
