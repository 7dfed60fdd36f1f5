"""What follows from the stored calls of several processes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from bench.timings import duration_ratio, speed_up, timing_summary, typical_call_s
from tests.bench.timings_made_up import block, timing_from_rounds, timing_of


def test_the_speed_up_is_over_the_rounds_in_which_both_had_their_turn() -> None:
    rounds = [
        block(0, 2.0, baseline_s=4.0),
        block(1, 2.0, baseline_s=6.0),
        block(2, 2.0, baseline_s=500.0, accepted=False),
        block(3, 1.0, baseline_s=None),
    ]
    ratio = speed_up(timing_from_rounds([rounds, [block(0, 1.0, baseline_s=3.0)]]))
    assert ratio is not None
    assert ratio.pairs == pytest.approx([np.sqrt(6.0), 3.0])
    assert ratio.estimate == pytest.approx(np.sqrt(np.sqrt(6.0) * 3.0))
    assert speed_up(timing_of([[1.0]])) is None


def test_two_trials_are_compared_round_by_round_and_only_within_one_session() -> None:
    slow, fast = timing_of([[2.0, 4.0], [3.0, 3.0]]), timing_of([[1.0, 2.0], [1.5, 1.0]])
    ratio = duration_ratio(slow, fast)
    assert ratio is not None
    assert ratio.pairs == pytest.approx([2.0, np.sqrt(6.0)])
    assert duration_ratio(slow, timing_of([[1.0, 2.0]], session="another")) is None
    fewer = timing_of([[1.0, 2.0]])
    both = duration_ratio(slow, fewer)
    assert both is not None
    assert both.pairs == pytest.approx([2.0])


def test_rejected_rounds_are_counted_and_not_used() -> None:
    rounds = [block(0, 1.0), block(1, 9.0, accepted=False, foreign_cores=1.0), block(2, 1.0)]
    timing = timing_from_rounds([rounds] * 2, planned_rounds=2)
    summary = timing_summary(timing, 4)
    assert (summary.rejected_rounds, summary.calls, summary.processes) == (2, 12, 2)
    assert summary.largest_s == 1.0
    assert summary.largest_foreign_cores == 0.0
    assert summary.images_per_s == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("accepted", "planned", "quiet", "contended"),
    [
        ([True, True, True, False], 3, True, False),
        ([True, True, True, False], 3, False, True),  # The machine was never quiet before it began.
        ([True, True, True, False], 4, True, True),  # Too few quiet rounds.
        ([True, True, False, False], 2, True, True),  # More than 30 % rejected.
        ([False, False], 1, True, True),
    ],
)
def test_a_timing_is_contended_where_others_used_the_machine(
    accepted: list[bool], planned: int, quiet: bool, contended: bool
) -> None:
    rounds = [block(number, 1.0, accepted=each) for number, each in enumerate(accepted)]
    timing = timing_from_rounds([rounds], planned_rounds=planned)
    timing = timing.model_copy(update={"instances": [timing.instances[0].model_copy(update={"quiet_before": quiet})]})
    assert timing.contended is contended
    assert timing_summary(timing, 1).contended is contended
    assert timing.end_to_end_s().size > 0


def test_a_timing_knows_whether_processes_are_missing() -> None:
    assert timing_of([[1.0]] * 3).complete
    assert not timing_of([[1.0]] * 3, planned_instances=6).complete


def test_without_its_calls_a_timing_keeps_every_figure() -> None:
    first = timing_of([[0.010, 0.011, 0.013], [0.012, 0.010, 0.011]], baseline_s=0.05)
    second = timing_of([[0.020, 0.021, 0.023], [0.022, 0.020, 0.021]], baseline_s=0.05)
    queued = timing_from_rounds([[block(0, 1.0, compute_s=[], end_to_end_s=[], queue_s=0.5)]])
    light, other = pickle.loads(pickle.dumps((first.without_calls(), second.without_calls())))
    assert not light.end_to_end_s().size
    assert typical_call_s(light) == typical_call_s(first)
    assert speed_up(light) == speed_up(first)
    assert duration_ratio(light, other) == duration_ratio(first, second)
    assert light.contended is first.contended
    assert typical_call_s(queued.without_calls()) == 0.5


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_medians_of_blocks_are_numpys(count: int) -> None:
    samples_rs = np.random.default_rng(count).exponential(size=(7, count))
    blocks = [
        block(number, 1.0, end_to_end_s=row.tolist(), compute_s=(row / 2).tolist())
        for number, row in enumerate(samples_rs)
    ]
    (one,) = timing_from_rounds([blocks]).instances
    assert list(one.blocks_s.values()) == np.median(samples_rs, axis=1).tolist() == [each.call_s for each in blocks]
    assert one.medians_s["end_to_end_s"] == np.median(samples_rs)
    assert one.medians_s["compute_s"] == np.median(samples_rs / 2)


def test_drift_is_the_last_third_over_the_first() -> None:
    drift = timing_summary(timing_of([[1.0, 1.0, 1.2], [1.1, 1.3, 1.3]]), 1).drift
    assert drift == pytest.approx(1.3)


def test_a_queue_has_a_throughput_and_no_latency() -> None:
    blocks = [block(number, 1.0, compute_s=[], end_to_end_s=[], queue_s=0.5, baseline_s=2.0) for number in range(3)]
    timing = timing_from_rounds([blocks] * 2)
    summary = timing_summary(timing, 8)
    assert summary.queued
    assert summary.images_per_s == pytest.approx(16.0)
    assert summary.latency is summary.compute is summary.p90 is summary.largest_s is None
    assert typical_call_s(timing) == pytest.approx(0.5)
    ratio = speed_up(timing)
    assert ratio is not None
    assert ratio.estimate == pytest.approx(4.0)


def test_the_latency_is_of_processes_and_not_of_calls() -> None:
    summary = timing_summary(timing_of([[1.0] * 9, [4.0]]), 1)
    assert summary.latency is not None
    assert summary.latency.value == pytest.approx(2.0)
    assert summary.compute is not None
    assert summary.compute.value == pytest.approx(1.0)


def test_a_changed_copy_of_a_block_does_not_keep_the_old_ones_median() -> None:
    one = block(0, 1.0)
    assert one.call_s == 1.0
    assert one.model_copy(update={"end_to_end_s": [2.0]}).call_s == 2.0
    assert one.model_copy() == one
