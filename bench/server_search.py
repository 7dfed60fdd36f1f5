"""The highest rate of Poisson arrivals at which the tail of latencies holds a bound.

Latency counts from the time at which a query was due, not from when the model was free to take it: what a closed loop
hides is the whole of the answer here. A rate holds the bound when so few queries exceeded it that 99 % of all hold it
with 99 % confidence. The search halves the gap between a rate that held and one that did not, below the capacity of a
closed loop; whatever it finds it has picked among noisy runs, so a longer run at that rate must confirm it, or at a
lower one: behind a queue slow queries come in clusters, which the binomial bound knows nothing of, so that the same
rate can hold in 662 queries and fail in 1,200.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.early_stopping import SERVER_PERCENTILE, allowed_over, holds
from bench.load_log import LoadRun
from bench.load_records import Probe
from bench.statistics import supported_percentile

# Rate, number of queries, name of the log folder -> the run. Raises BackendError.
Measure = Callable[[float, int, str], LoadRun]
# Below this share of the capacity the bound is, in effect, what a lone query takes.
_LOWEST_SHARE = 0.02
_STEP_DOWN = 0.9
_MOST_CONFIRMATIONS = 5


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """Queries of a probe and of the confirming run, the resolution as a fraction of the rate, and limits of time.

    One limit is on all probes, and none is begun that is foreseen to go beyond it, not even the first; the other is on
    all confirming runs, of which the first is always begun, and after it none that would go beyond.
    """

    probe_queries: int
    confirming_queries: int
    resolution: float
    limit_s: float
    confirming_limit_s: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """`run` is the last confirming run, None where no probe held; `rate_per_s` is None unless it was confirmed."""

    rate_per_s: float | None
    run: LoadRun | None
    probes: list[Probe]
    words: str


def highest_rate(
    measure: Measure,
    *,
    capacity_per_s: float,
    bound_s: float,
    plan: SearchPlan,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Search for the highest rate that holds the bound, and confirm it."""
    assert allowed_over(plan.probe_queries, SERVER_PERCENTILE) >= 0, "so few queries can show nothing"
    started_s, probes, why = clock(), list[Probe](), ""
    low, high = 0.0, capacity_per_s
    while high - low > plan.resolution * high:
        rate = (low + high) / 2
        foreseen_s = plan.probe_queries / rate
        if rate < _LOWEST_SHARE * capacity_per_s:
            why = f"no rate of at least {_LOWEST_SHARE:.0%} of the closed loop's held the bound"
            break
        if clock() - started_s + foreseen_s > plan.limit_s:
            between = (
                f"between {low:.1f} and {high:.1f} a second"
                if low
                else f"below {high:.1f} a second, where none had held"
            )
            why = f"the search was cut at its limit of {plan.limit_s:.0f} s, {between}"
            break
        run = measure(rate, plan.probe_queries, f"probe-{len(probes) + 1:02d}")
        probes.append(probe_from_run(run, rate, bound_s))
        low, high = (rate, high) if probes[-1].held else (low, rate)
    if not low:
        return Found(rate_per_s=None, run=None, probes=probes, words=why)
    rate, run = _confirmed(measure, low, bound_s, plan, probes)
    if not probes[-1].held:
        words = f"{low:.1f} a second held once; longer runs at it and down to {rate:.1f} did not hold"
        return Found(rate_per_s=None, run=run, probes=probes, words=words)
    return Found(rate_per_s=rate, run=run, probes=probes, words=why or _above(high, capacity_per_s))


def _above(high: float, capacity_per_s: float) -> str:
    """Say what is known of the rate above the one that was found."""
    if high == capacity_per_s:
        return f"{high:.1f} a second is the closed loop's own rate and was not tried"
    return f"{high:.1f} a second did not hold"


def _confirmed(
    measure: Measure, rate: float, bound_s: float, plan: SearchPlan, probes: list[Probe]
) -> tuple[float, LoadRun]:
    """Measure a rate again and longer, and lower ones until one holds; append each to the probes."""
    left_s = plan.confirming_limit_s
    for attempt in range(1, _MOST_CONFIRMATIONS + 1):
        # At a low rate the longer run would take minutes: never fewer than a probe has.
        queries = max(plan.probe_queries, min(plan.confirming_queries, int(plan.confirming_limit_s * rate / 2)))
        run = measure(rate, queries, f"confirming-{attempt}")
        probes.append(probe_from_run(run, rate, bound_s, confirming=True))
        left_s -= run.duration_s
        lower = rate * _STEP_DOWN
        if probes[-1].held or plan.probe_queries / lower > left_s:
            break
        if attempt < _MOST_CONFIRMATIONS:
            rate = lower
    return rate, run


def probe_from_run(run: LoadRun, rate: float, bound_s: float, *, confirming: bool = False) -> Probe:
    """Return what a run says of a rate; the verdict is by the count of latencies above the bound."""
    latencies_s = np.array(run.latencies_s)
    over = int((latencies_s > bound_s).sum())
    return Probe(
        offered_per_s=rate,
        completed_per_s=run.samples_per_s,
        query_count=run.query_count,
        over_bound_count=over,
        p50_s=float(np.median(latencies_s)),
        p99_s=supported_percentile(latencies_s, SERVER_PERCENTILE),
        held=holds(run.query_count, over),
        flag=run.flag,
        confirming=confirming,
        foreign_cores=run.foreign_cores,
        log_folder=run.log_folder,
    )
