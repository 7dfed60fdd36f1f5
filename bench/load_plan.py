"""How much is measured under load, in full and with --quick."""

from __future__ import annotations

from dataclasses import dataclass

from bench.early_stopping import SERVER_PERCENTILE, least_queries
from bench.server_search import SearchPlan


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How much is measured: at least `queries` and `duration_s`, unless that is foreseen to exceed `limit_s`.

    `quiet_within_s` is how long to wait for a quiet machine before each scenario.
    """

    queries: int
    duration_s: float
    limit_s: float
    search: SearchPlan
    quick: bool
    quiet_within_s: float = 0.0


# 662 queries are the fewest with an estimate of p99, 64 of p90; 459 can hold a bound on p99 if not one exceeds it.
FULL_LOAD = LoadPlan(
    queries=least_queries(0.99),
    duration_s=5.0,
    limit_s=60.0,
    search=SearchPlan(
        probe_queries=least_queries(SERVER_PERCENTILE),
        confirming_queries=1200,
        resolution=0.05,
        limit_s=90.0,
        confirming_limit_s=70.0,
    ),
    quick=False,
    quiet_within_s=60.0,
)
QUICK_LOAD = LoadPlan(
    queries=least_queries(0.90),
    duration_s=1.0,
    limit_s=10.0,
    search=SearchPlan(
        probe_queries=least_queries(SERVER_PERCENTILE, over_count=0),
        confirming_queries=least_queries(SERVER_PERCENTILE, over_count=0),
        resolution=0.2,
        limit_s=30.0,
        confirming_limit_s=20.0,
    ),
    quick=True,
)
