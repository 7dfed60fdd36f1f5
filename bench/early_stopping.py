"""LoadGen's early stopping: what a short run of traffic can say about a tail, at 99 % confidence.

A percentile of n queries is an estimate; the bound here is an order statistic that lies above the true percentile with
a confidence of 99 %. LoadGen hard-codes that confidence, and so does this. Source: loadgen/early_stopping.cc and
results.cc of MLCommons inference, reproduced with the binomial distribution; tests hold it to real logs.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.99
# LoadGen's latency bound is on this percentile of queries (TestSettings.server_target_latency_percentile).
SERVER_PERCENTILE = 0.99


def allowed_over(query_count: int, fraction: float) -> int:
    """Return how many of n queries may exceed a bound that is said to hold for `fraction` of them; -1 for none.

    -1 says that n is too small: even without a single slow query the claim would not hold with 99 % confidence.
    """
    over = int(stats.binom.ppf(1 - CONFIDENCE, query_count, 1 - fraction))
    # ppf is the first count at or above the level, this is the last one not above it.
    return over if stats.binom.cdf(over, query_count, 1 - fraction) <= 1 - CONFIDENCE else over - 1


def holds(query_count: int, over_count: int, fraction: float = SERVER_PERCENTILE) -> bool:
    """Tell whether a bound that `over_count` of the queries exceeded holds for `fraction` of all that may come."""
    return over_count <= allowed_over(query_count, fraction)


def upper_estimate(latencies: npt.NDArray[np.float64], fraction: float) -> float | None:
    """Return the bound on a percentile, None where there are too few queries: 64 for p90, 662 for p99.

    Where t queries may exceed a bound, LoadGen discards t - 1 and tells the highest of the rest, sorted[n - t].
    """
    over = allowed_over(len(latencies), fraction)
    return float(np.sort(latencies)[len(latencies) - over]) if over > 0 else None


def least_queries(fraction: float, *, over_count: int = 1) -> int:
    """Return the smallest n of which so many may exceed; 1 is what an estimate needs, 0 what a bound needs."""
    low, high = 1, math.ceil(40 * (over_count + 1) / (1 - fraction))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if allowed_over(middle, fraction) >= over_count else (middle + 1, high)
    return low
