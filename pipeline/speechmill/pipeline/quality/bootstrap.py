"""Confidence intervals by drawing the clips of a test set again."""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
_RESAMPLES = 1000
_SEED = 0  # the same clips are drawn for every system and metric


def bootstrap_interval(sums: Sequence[float], weights: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile interval of sum(sums) / sum(weights) over clips.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; for word errors
    Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation",
    ICASSP 2004. One clip gives an interval without width.
    """
    count = len(sums)
    drawn_RN = np.random.default_rng(_SEED).integers(count, size=(_RESAMPLES, count))
    totals_2R = np.asarray([sums, weights], np.float64)[:, drawn_RN].sum(axis=2)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(totals_2R[0] / totals_2R[1], [tail, 1 - tail])
    return float(low), float(high)
