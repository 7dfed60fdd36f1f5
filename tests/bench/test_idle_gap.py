"""Pauses on the session's ONNX file: what is recorded, what a row says, and what a failure becomes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import idle_gap, load_closed_loop, scenarios
from bench.idle_gap import (
    FULL_IDLE,
    IDLE_COLUMNS,
    QUICK_IDLE,
    Gap,
    IdlePlan,
    idle_gap_rows,
    idle_gaps_of_run,
    measure_idle_gaps,
)
from bench.scenarios import Subject


def test_every_first_call_after_a_pause_is_kept_beside_the_closed_loop(make_subject: Callable[..., Subject]) -> None:
    subject = make_subject()
    result = measure_idle_gaps(subject, IdlePlan(repeats={0.05: 3, 0.1: 2}, quick=True))
    assert (result.status, result.reason) == ("measured", "")
    assert len(result.closed_loop_s) == 100
    assert [(gap.pause_s, len(gap.first_call_s)) for gap in result.gaps] == [(0.05, 3), (0.1, 2)]
    assert all(first_s > 0 for gap in result.gaps for first_s in gap.first_call_s)
    assert idle_gaps_of_run(subject.run) == [result]


def test_a_row_has_both_medians_and_their_ratio(make_subject: Callable[..., Subject]) -> None:
    subject = make_subject()
    result = measure_idle_gaps(subject, IdlePlan(repeats={}, quick=True))
    made = result.model_copy(
        update={"closed_loop_s": [0.008, 0.009, 0.010], "gaps": [Gap(pause_s=10.0, first_call_s=[0.03, 0.018, 0.01])]}
    )
    (row,) = idle_gap_rows([made])
    assert len(row) == len(IDLE_COLUMNS)
    assert row[4:] == ["3 + 3", "9.00", "10 s", "18.00", "2.00", "contended; quick" if made.contended else "quick"]


def test_a_model_that_answers_otherwise_is_a_result_with_its_reason(make_subject: Callable[..., Subject]) -> None:
    subject = make_subject(shift=0.1)
    result = measure_idle_gaps(subject, IdlePlan(repeats={0.05: 1}, quick=True))
    assert (result.status, result.gaps) == ("failed", [])
    assert "answers otherwise" in result.reason
    (row,) = idle_gap_rows(idle_gaps_of_run(subject.run))
    assert len(row) == len(IDLE_COLUMNS)
    assert row == ["d2-resnet18-ce", "fp32", "onnxruntime", "1", *[""] * 5, result.reason]


@pytest.mark.parametrize(("in_loop", "in_pause", "contended"), [(0.4, 0.1, True), (0.1, 0.4, True), (0.1, 0.1, False)])
def test_what_others_used_in_loop_and_pauses_is_recorded(
    make_subject: Callable[..., Subject],
    monkeypatch: pytest.MonkeyPatch,
    in_loop: float,
    in_pause: float,
    contended: bool,
) -> None:
    def told(foreign_cores: float) -> type:
        class Told:
            def cores(self, *, worker_cpu_s: float) -> float:
                assert worker_cpu_s > 0
                return foreign_cores

        return Told

    waited_s: list[float] = []
    monkeypatch.setattr(scenarios, "wait_until_quiet", waited_s.append)
    monkeypatch.setattr(load_closed_loop, "ForeignLoad", told(in_loop))
    monkeypatch.setattr(idle_gap, "ForeignLoad", told(in_pause))
    result = measure_idle_gaps(make_subject(), IdlePlan(repeats={0.01: 1}, quick=False, quiet_within_s=60.0))
    assert waited_s == [60.0]
    assert (result.closed_loop_foreign_cores, result.gaps[0].foreign_cores) == (in_loop, in_pause)
    assert result.contended is contended
    (row,) = idle_gap_rows([result])
    assert row[-1] == ("contended" if contended else "")


def test_the_plans_are_those_that_the_documentation_names() -> None:
    assert FULL_IDLE.repeats == {1.0: 10, 10.0: 3}
    assert QUICK_IDLE.repeats == {1.0: 5}
    assert (FULL_IDLE.quiet_within_s, QUICK_IDLE.quiet_within_s) == (60.0, 0.0)
