"""The search for a rate, on a queue that is simulated: what it finds, what it records, when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from bench.early_stopping import holds
from bench.load_log import LoadRun
from bench.load_settings import LoadSettings
from bench.server_search import Found, SearchPlan, highest_rate

_SERVICE_S = 0.01
_PLAN = SearchPlan(
    probe_queries=662, confirming_queries=1200, resolution=0.05, limit_s=1000.0, confirming_limit_s=1000.0
)


class Queue:
    """One server with a constant service time, and arrivals that a seed decides; its clock is simulated."""

    def __init__(self, *, worse_by: Callable[[str], float] = lambda name: 1.0) -> None:
        self.now_s = 0.0
        self.worse_by = worse_by

    def clock(self) -> float:
        return self.now_s

    def measure(self, rate: float, queries: int, name: str) -> LoadRun:
        due_s = np.cumsum(np.random.default_rng(1).exponential(1 / rate, queries))
        free_s, latencies_s = 0.0, []
        for each_s in due_s:
            free_s = max(free_s, float(each_s)) + _SERVICE_S * self.worse_by(name)
            latencies_s.append(free_s - float(each_s))
        self.now_s += free_s
        return _run(rate, latencies_s, free_s, name)


def _run(rate: float, latencies_s: list[float], duration_s: float, name: str) -> LoadRun:
    flag: Literal["VALID"] = "VALID"
    return LoadRun(
        settings=LoadSettings(
            scenario="server", min_duration_s=0, min_query_count=len(latencies_s), offered_queries_per_s=rate
        ),
        loadgen_version="",
        seeds={},
        image_count=1,
        flag=flag,
        reasons=[],
        query_count=len(latencies_s),
        sample_count=len(latencies_s),
        duration_s=duration_s,
        latencies_s=latencies_s,
        estimates=[],
        samples_per_s=len(latencies_s) / duration_s,
        scheduled_per_s=rate,
        over_bound_count=None,
        num_errors=0,
        cpu_s=0.0,
        foreign_cores=0.0,
        log_folder=name,
    )


def _found(queue: Queue, bound_s: float, plan: SearchPlan = _PLAN) -> Found:
    return highest_rate(queue.measure, capacity_per_s=1 / _SERVICE_S, bound_s=bound_s, plan=plan, clock=queue.clock)


def test_the_rate_found_holds_the_bound_and_the_next_one_above_does_not() -> None:
    found = _found(Queue(), 0.030)
    assert found.rate_per_s is not None
    assert 0 < found.rate_per_s < 1 / _SERVICE_S
    searched = [probe for probe in found.probes if not probe.confirming]
    failed = [probe.offered_per_s for probe in searched if not probe.held]
    held = [probe.offered_per_s for probe in searched if probe.held]
    assert max(held) < min(failed) <= max(held) / (1 - _PLAN.resolution)
    assert found.probes[-1].confirming
    assert found.probes[-1].held
    assert found.probes[-1].query_count == 1200
    assert found.rate_per_s == found.probes[-1].offered_per_s == max(held)
    assert found.run is not None
    assert found.run.log_folder == "confirming-1"
    assert "did not hold" in found.words


def test_a_looser_bound_holds_at_a_higher_rate() -> None:
    rates = [_found(Queue(), bound_s).rate_per_s for bound_s in (0.030, 0.050, 0.080)]
    assert all(rate is not None for rate in rates)
    assert rates == sorted(set(rates))  # type: ignore[type-var]


def test_every_probe_is_judged_by_its_own_queries() -> None:
    for probe in _found(Queue(), 0.025).probes:
        assert probe.held == holds(probe.query_count, probe.over_bound_count)
        assert probe.p99_s is not None


def test_a_bound_that_any_rate_holds_is_searched_up_to_the_closed_loops_rate() -> None:
    found = _found(Queue(), 60.0)
    assert found.rate_per_s is not None
    assert found.rate_per_s >= 0.95 / _SERVICE_S
    assert "was not tried" in found.words


def test_a_bound_that_no_rate_holds_ends_the_search_without_a_rate() -> None:
    found = _found(Queue(), 0.009)
    assert (found.rate_per_s, found.run) == (None, None)
    assert found.words == "no rate of at least 2% of the closed loop's held the bound"
    assert not any(probe.held for probe in found.probes)


def test_a_search_is_cut_before_a_probe_that_would_exceed_its_time() -> None:
    plan = replace(_PLAN, limit_s=30.0)
    queue = Queue()
    found = _found(queue, 0.030, plan)
    assert sum(probe.query_count / probe.offered_per_s for probe in found.probes if not probe.confirming) <= 30.0
    assert "cut at its limit of 30 s" in found.words


def test_not_even_the_first_probe_is_begun_that_would_exceed_the_time_of_a_search() -> None:
    found = _found(Queue(), 0.030, replace(_PLAN, limit_s=13.0))  # 662 queries at 50 a second take 13.2 s.
    assert (found.probes, found.rate_per_s) == ([], None)
    assert found.words == "the search was cut at its limit of 13 s, below 100.0 a second, where none had held"


def test_a_rate_that_does_not_hold_again_is_lowered_until_one_does() -> None:
    queue = Queue(worse_by=lambda name: 1.05 if name == "confirming-1" else 1.0)
    found = _found(queue, 0.030)
    confirming = [probe for probe in found.probes if probe.confirming]
    assert [probe.held for probe in confirming] == [False, True]
    assert found.rate_per_s == confirming[1].offered_per_s == pytest.approx(0.9 * confirming[0].offered_per_s)


def test_a_rate_that_never_holds_again_is_not_told_as_one_that_does() -> None:
    found = _found(Queue(worse_by=lambda name: 4.0 if name.startswith("confirming") else 1.0), 0.030)
    assert found.rate_per_s is None
    assert found.run is not None
    confirming = [probe for probe in found.probes if probe.confirming]
    assert [probe.held for probe in confirming] == [False] * 5
    assert f"down to {confirming[-1].offered_per_s:.1f} did not hold" in found.words


def test_confirming_ends_at_its_own_limit_and_asks_no_fewer_queries_than_a_probe() -> None:
    plan = replace(_PLAN, confirming_limit_s=30.0)
    found = _found(Queue(worse_by=lambda name: 4.0 if name.startswith("confirming") else 1.0), 0.030, plan)
    (confirming,) = [probe for probe in found.probes if probe.confirming]
    assert confirming.query_count == 662


def test_a_plan_whose_probes_could_show_nothing_is_a_mistake() -> None:
    plan = replace(_PLAN, probe_queries=458)
    with pytest.raises(AssertionError):
        _found(Queue(), 0.030, plan)
