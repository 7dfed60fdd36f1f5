"""Two measurements of different hours: what may be said of their times, and when the comparison fails."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bench.gate import Verdict, Word
from bench.results import Trial, TrialResult
from bench.time_comparison import TimeComparison, compared_times
from bench.time_statistics import ratio_from_logs
from bench.timings import Timing
from tests.bench.timings_made_up import timing_of

_MACHINE: dict[str, Any] = {"processor": "a", "cores": 2, "memory_bytes": 8, "packages": {"torch": "2", "numpy": "1"}}


def _result(timing: Timing | None, *, backend: str = "onnxruntime", **machine: Any) -> TrialResult:
    return TrialResult(
        trial=Trial(
            run="films",
            variant="fp32",
            artifact="export/fp32.onnx",
            backend=backend,
            precision="fp32",
            batch_size=1,
            threads=2,
        ),
        status="measured",
        margin=0.01,
        margin_set="",
        mode="full",
        verdict=Verdict(word=Word.PASS, step="parity", reason=""),
        timing=timing,
        created="",
        machine={**_MACHINE, **machine},
    )


def _six(call_s: float, eager_s: float | None = None, *, spread: float = 0.005, **changes: Any) -> Timing:
    """Return six processes around a time per call; eager beside each takes `eager_s` exactly."""
    processes = [[call_s * math.exp(spread * each)] * 6 for each in (-1.0, -0.6, -0.2, 0.2, 0.6, 1.0)]
    return timing_of(processes, baseline_s=eager_s, **changes)


def _compared(old: TrialResult, new: TrialResult, *, same_images: bool = True, noise: float = 1.0) -> TimeComparison:
    found = compared_times(old, new, noise=[ratio_from_logs([math.log(noise)])], same_images=same_images)
    assert found is not None
    return found


def test_beside_eager_the_drift_between_the_two_hours_is_taken_out() -> None:
    old, new = _result(_six(0.010, 0.050)), _result(_six(0.0115, 0.0575))  # A slower hour, for both.
    times = _compared(old, new)
    assert times.basis == "beside eager PyTorch"
    assert times.ratio is not None
    assert times.ratio.estimate == pytest.approx(1.0)
    assert times.word == "same"
    assert times.new_s / times.old_s == pytest.approx(1.15)
    assert not times.exceeds(0.03, strict=True)


@pytest.mark.parametrize(
    ("same_images", "changes"),
    [(False, {}), (True, {"packages": {"torch": "3"}}), (True, {"packages": {}})],
    ids=["other images", "another torch", "no torch known"],
)
def test_where_eager_is_no_yardstick_the_times_themselves_are_compared(
    same_images: bool, changes: dict[str, Any]
) -> None:
    old, new = _result(_six(0.010, 0.050)), _result(_six(0.0115, 0.0575), **changes)
    times = _compared(old, new, same_images=same_images)
    assert times.basis == "by their times alone"
    assert times.ratio is not None
    assert times.ratio.estimate == pytest.approx(1.15)
    assert times.word == "slower"
    assert times.exceeds(0.03, strict=False)


def test_eager_itself_is_compared_by_its_times() -> None:
    old, new = (_result(_six(each, each), backend="pytorch") for each in (0.05, 0.06))
    times = _compared(old, new)
    assert times.basis == "by their times alone"
    assert times.ratio is not None
    assert times.ratio.estimate == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (_result(_six(0.010), processor="b"), "another machine: processor a -> b"),
        (_result(_six(0.010), cores=4), "another machine: cores 2 -> 4"),
        (_result(_six(0.010), gpus=["NVIDIA L4"]), "another machine: gpus None -> ['NVIDIA L4']"),
        (_result(_six(0.010, mode="strict")), "another protocol: full -> strict"),
    ],
)
def test_times_of_another_machine_or_protocol_are_not_compared(new: TrialResult, words: str) -> None:
    times = _compared(_result(_six(0.010)), new)
    assert times.ratio is None
    assert times.refused == words
    assert not times.exceeds(0.03, strict=False)


def test_what_was_not_timed_is_not_compared() -> None:
    assert compared_times(_result(None), _result(_six(0.010)), noise=[], same_images=True) is None


@pytest.mark.parametrize(
    ("slowdown", "spread", "shown", "perhaps"),
    [(0.02, 0.005, False, False), (0.05, 0.005, True, True), (0.05, 0.06, False, True), (-0.10, 0.005, False, False)],
)
def test_a_slowdown_is_shown_by_the_whole_interval_and_strictly_by_the_estimate(
    slowdown: float, spread: float, shown: bool, perhaps: bool
) -> None:
    old, new = _result(_six(0.010, spread=spread)), _result(_six(0.010 * (1 + slowdown), spread=spread))
    times = _compared(old, new)
    assert times.exceeds(0.03, strict=False) is shown
    assert times.exceeds(0.03, strict=True) is perhaps


def test_one_process_each_shows_nothing() -> None:
    times = _compared(_result(timing_of([[0.01]])), _result(timing_of([[0.02]])))
    assert times.word == "undecided"
    assert not times.exceeds(0.03, strict=False)
    assert times.exceeds(0.03, strict=True)


def test_on_a_machine_that_others_used_nothing_is_shown() -> None:
    crowded = _six(0.02, planned_rounds=12)  # Too few quiet rounds.
    times = _compared(_result(_six(0.01)), _result(crowded))
    assert times.word == "contended"
    assert not times.exceeds(0.03, strict=False)
    assert times.exceeds(0.03, strict=True)


def test_a_difference_below_the_noise_of_either_session_is_none() -> None:
    old, new = _result(_six(0.010)), _result(_six(0.0104))
    assert _compared(old, new).word == "slower"
    assert _compared(old, new, noise=np.exp(-0.05)).word == "undecided"
