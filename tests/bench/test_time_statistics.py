"""Intervals that hold what they promise, and words that are used only where they may be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.time_statistics import (
    Ratio,
    latency_over_processes,
    percentile,
    quantile_interval,
    ratio_from_logs,
    ratio_of_independent,
    word_for_ratio,
)


@pytest.mark.parametrize(
    ("pairs", "deviation", "half_width"), [(3, 0.0125, 0.0310), (6, 0.0125, 0.0131), (12, 0.0125, 0.0079)]
)
def test_the_interval_is_as_wide_as_students_t_makes_it(pairs: int, deviation: float, half_width: float) -> None:
    logs = np.array([(-1.0) ** index for index in range(pairs)])
    logs = deviation * (logs - logs.mean()) / logs.std(ddof=1)
    ratio = ratio_from_logs(logs.tolist())
    assert ratio.low is not None
    assert ratio.high is not None
    assert math.log(ratio.high / ratio.low) / 2 == pytest.approx(half_width, abs=6e-5)
    assert ratio.estimate == pytest.approx(1.0)


def test_the_interval_over_process_pairs_covers_and_the_one_over_calls_does_not() -> None:
    generator = np.random.default_rng(5)
    covered = pooled_covered = 0
    for _ in range(1000):
        pair_logs_p = generator.normal(0.0, 0.0125, size=6)
        ratio = ratio_from_logs(pair_logs_p.tolist())
        assert ratio.low is not None
        assert ratio.high is not None
        covered += ratio.low <= 1 <= ratio.high
        calls = (pair_logs_p[:, None] + generator.normal(0.0, 0.02, size=(6, 72))).ravel()
        error = calls.std(ddof=1) / math.sqrt(len(calls))
        pooled_covered += abs(calls.mean()) <= stats.t.ppf(0.975, len(calls) - 1) * error
    assert 930 <= covered <= 970
    assert pooled_covered < 500


def test_the_sign_interval_is_the_range_of_six_pairs_and_none_of_five() -> None:
    ratio = ratio_from_logs(np.log([0.9, 1.0, 1.1, 1.2, 1.3, 1.4]).tolist())
    assert (ratio.sign_low, ratio.sign_high) == pytest.approx((0.9, 1.4))
    assert ratio_from_logs(np.log([0.9, 1.0, 1.1, 1.2, 1.3]).tolist()).sign_low is None


def test_one_pair_has_a_ratio_and_no_interval() -> None:
    ratio = ratio_from_logs([math.log(2)])
    assert ratio.estimate == pytest.approx(2)
    assert ratio.low is ratio.high is ratio.same_low is ratio.sign_low is None
    assert word_for_ratio(ratio, None) == "undecided"


def test_independent_processes_are_compared_as_welch_does() -> None:
    generator = np.random.default_rng(6)
    first, second = generator.normal(1.0, 0.02, size=6), generator.normal(0.9, 0.05, size=12)
    ratio = ratio_of_independent(first.tolist(), second.tolist())
    wanted = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(wanted.low), math.exp(wanted.high)))


def test_a_ratio_turned_round_has_its_ends_turned_too() -> None:
    ratio = ratio_from_logs(np.log([1.9, 2.0, 2.1, 2.05, 1.95, 2.0]).tolist())
    other = ratio.inverted()
    assert ratio.low is not None
    assert other.low is not None
    assert other.high == pytest.approx(1 / ratio.low)
    assert other.low < other.estimate < 1
    assert other.inverted().pairs == pytest.approx(ratio.pairs)


def _ratio(estimate: float, half_width: float, sixth: float | None = None) -> Ratio:
    """Return a ratio with about this 95 % half-width; the 90 % one is t(0.95, 5) / t(0.975, 5) of it."""
    inner = half_width * 2.015 / 2.571 if sixth is None else sixth
    return Ratio(
        estimate=estimate,
        low=estimate * math.exp(-half_width),
        high=estimate * math.exp(half_width),
        same_low=estimate * math.exp(-inner),
        same_high=estimate * math.exp(inner),
        sign_low=None,
        sign_high=None,
        pairs=[estimate] * 6,
    )


@pytest.mark.parametrize(
    ("estimate", "half_width", "noise", "word"),
    [
        (0.970, 0.013, 1.000, "faster"),
        (1.030, 0.013, 1.000, "slower"),
        (1.008, 0.004, 1.000, "same"),  # Significant, and below the noise floor.
        (1.000, 0.013, 1.000, "same"),
        (1.000, 0.040, 1.000, "undecided"),
        (1.030, 0.040, 1.000, "undecided"),
        (1.030, 0.013, 1.040, "undecided"),  # The model differed from itself by more.
        (1.030, 0.013, 0.950, "undecided"),
        (2.000, 0.013, 1.040, "slower"),
    ],
)
def test_words_are_used_only_where_interval_and_noise_allow(
    estimate: float, half_width: float, noise: float, word: str
) -> None:
    assert word_for_ratio(_ratio(estimate, half_width), _ratio(noise, 0.01)) == word


def test_a_percentile_is_refused_below_the_sample_that_has_an_interval() -> None:
    samples = np.random.default_rng(7).gamma(4.0, size=368)
    assert percentile(samples[:-1], 0.99) is None
    found = percentile(samples, 0.99)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value == np.quantile(samples, 0.99, method="inverted_cdf") <= found.high
    assert percentile(samples, 0.999) is None


def test_a_latency_is_the_geometric_mean_of_the_processes_with_their_interval() -> None:
    found = latency_over_processes([0.008, 0.0081, 0.0083])
    assert found.value == pytest.approx((0.008 * 0.0081 * 0.0083) ** (1 / 3))
    assert found.low is not None
    assert found.low < 0.008 < found.value
    assert latency_over_processes([0.008]).low is None


@pytest.mark.parametrize("count", [1, 5, 6, 12, 44, 100, 367, 368, 1000])
@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.99])
def test_order_statistic_intervals_are_scipys(count: int, fraction: float) -> None:
    samples = np.random.default_rng(count).normal(size=count)
    wanted = stats.quantile_test(samples, q=0, p=fraction).confidence_interval(0.95)
    found = quantile_interval(samples, fraction)
    if math.isfinite(wanted.low) and math.isfinite(wanted.high):
        assert found == (wanted.low, wanted.high)
    else:
        assert found is None
