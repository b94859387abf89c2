from itertools import product

import numpy as np
import pytest

from speechmill.pipeline.quality.bootstrap import bootstrap_interval


def test_the_interval_is_that_of_all_possible_resamples():
    errors, words = np.array([0, 1, 2, 7, 3]), np.array([10, 8, 12, 9, 11])
    every = np.array(list(product(range(5), repeat=5)))
    rates = errors[every].sum(1) / words[every].sum(1)
    expected = np.quantile(rates, [0.025, 0.975])
    assert bootstrap_interval(errors, words) == pytest.approx(expected, abs=0.01)
    assert rates.min() < expected[0] - 0.02 < expected[1] + 0.02 < rates.max()


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_contains_the_mean_and_narrows_with_more_clips(seed):
    scores = np.random.default_rng(seed).gamma(2.0, size=400)
    widths = []
    for count in (25, 400):
        low, high = bootstrap_interval(scores[:count], np.ones(count))
        assert low < scores[:count].mean() < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_the_interval_of_many_clips_is_that_of_the_standard_error():
    scores = np.random.default_rng(0).standard_normal(1000)
    low, high = bootstrap_interval(scores, np.ones(1000))
    half = 1.96 * scores.std() / np.sqrt(1000)
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.01)


def test_the_interval_of_one_clip_has_no_width():
    assert bootstrap_interval([3.0], [4.0]) == (0.75, 0.75)


def test_the_interval_is_the_same_each_time():
    scores = np.random.default_rng(0).random(30)
    assert bootstrap_interval(scores, np.ones(30)) == bootstrap_interval(scores, np.ones(30))
