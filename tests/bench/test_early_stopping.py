"""LoadGen's early stopping as a formula: against numbers of real LoadGen runs, and against its own definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bench.early_stopping import allowed_over, holds, least_queries, upper_estimate


@pytest.mark.parametrize(
    ("query_count", "fraction", "discarded"), [(338, 0.90, 20), (422, 0.90, 26), (475, 0.90, 31), (700, 0.90, 50)]
)
def test_as_many_latencies_lie_above_the_estimate_as_loadgen_discarded(
    query_count: int, fraction: float, discarded: int
) -> None:
    latencies = np.random.default_rng(0).permutation(query_count).astype(np.float64)
    estimate = upper_estimate(latencies, fraction)
    assert estimate is not None
    assert (latencies > estimate).sum() == discarded == allowed_over(query_count, fraction) - 1


@pytest.mark.parametrize(("fraction", "least"), [(0.90, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_an_estimate_needs_as_many_queries_as_loadgen_asks_for(fraction: float, least: int) -> None:
    assert least_queries(fraction) == least
    latencies = np.arange(least, dtype=np.float64)
    assert upper_estimate(latencies, fraction) == least - 1
    assert upper_estimate(latencies[1:], fraction) is None


@pytest.mark.parametrize(("fraction", "least"), [(0.90, 44), (0.95, 90), (0.99, 459), (0.999, 4603)])
def test_a_bound_needs_fewer_for_not_one_may_exceed_it(fraction: float, least: int) -> None:
    assert least_queries(fraction, over_count=0) == least
    assert holds(least, 0, fraction)
    assert not holds(least, 1, fraction)
    assert not holds(least - 1, 0, fraction)


@pytest.mark.parametrize("fraction", [0.90, 0.99])
def test_what_is_allowed_is_the_last_count_that_is_too_few_to_be_chance(fraction: float) -> None:
    for query_count in range(1, 2000, 7):
        allowed = allowed_over(query_count, fraction)
        assert allowed == -1 or stats.binom.cdf(allowed, query_count, 1 - fraction) <= 0.01
        assert stats.binom.cdf(allowed + 1, query_count, 1 - fraction) > 0.01
