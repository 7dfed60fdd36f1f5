"""Which trials take turns, what an interruption leaves, and what a failure while being timed does to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import sessions
from bench.gate import Verdict, Word
from bench.results import Trial, TrialResult
from bench.sessions import parts_of, timed
from bench.timing import FULL, QUICK, STRICT, UNTIMED, Participant, Plan
from bench.timings import Instance, timing_summary
from harness.core.errors import BackendError
from harness.core.progress import SILENT
from tests.bench.timings_made_up import block, timing_from_rounds


def _result(name: str, word: Word = Word.PASS, **changes: Any) -> TrialResult:
    trial = Trial(
        run="films",
        variant="eager" if name == "pytorch" else name,
        artifact="export/fp32.onnx",
        backend="pytorch" if name == "pytorch" else "onnxruntime",
        precision="fp32",
        batch_size=1,
        threads=1,
    )
    made: dict[str, Any] = {"status": "measured", "margin": 0.01, "margin_set": "", "mode": "full", "created": ""}
    made |= {"verdict": Verdict(word=word, step="parity", reason=""), "answering_s": 5.0, "machine": {}}
    return TrialResult(trial=trial, **{**made, **changes})


_EAGER = "eager.pytorch.b1.t1"


class Bench:
    """`timed` with a stand-in for the measurement itself, which notes who took part."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sets: list[tuple[int, list[str], str | None]] = []
        self.kept: dict[str, TrialResult] = {}
        self.fails: dict[int, str] = {}
        self.fails_in_session: int | None = None
        self.sessions = 0
        self.said: list[str] = []
        self.interrupted_at: int | None = None
        monkeypatch.setattr(sessions, "measured_set", self._measured_set)
        monkeypatch.setattr(
            sessions,
            "_participant",
            lambda _reference, name, _result: Participant(
                name=name,
                load=None,  # type: ignore[arg-type]
                log=Path("logs") / f"{name}.log",
                outputs_bc=np.zeros((1, 3), dtype=np.float32),
            ),
        )

    def _measured_set(
        self, participants: Sequence[Participant], baseline: str | None, plan: Plan, number: int, task: Any
    ) -> tuple[dict[str, Instance], dict[str, BackendError]]:
        if number == self.interrupted_at:
            raise KeyboardInterrupt
        names = [each.name for each in participants]
        assert len({each.log for each in participants}) == len(names)
        self.sets.append((number, names, baseline))
        self.sessions += number == 0
        (instance,) = timing_from_rounds(
            [[block(each, 0.01, baseline_s=0.05) for each in range(plan.rounds)]]
        ).instances
        failing = self.fails.get(number) if self.fails_in_session in {None, self.sessions} else None
        measured = {name: instance.model_copy(update={"number": number}) for name in names if name != failing}
        return measured, {failing: BackendError("it broke", hint="")} if failing in names else {}

    def run(self, *results: TrialResult, plan: Plan = FULL, again: bool = False) -> dict[str, TrialResult]:
        def keep(result: TrialResult) -> None:
            self.kept[result.trial.identifier] = result

        reference: Any = type("Reference", (), {"run": type("Run", (), {"name": "films"})})
        progress: Any = type("Progress", (), {"say": self.said.append, "task": SILENT.task})
        done = timed(reference, results, plan, keep, progress, again=again)
        assert [each.trial for each in done] == [each.trial for each in results]
        return {each.trial.variant: each for each in done}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_every_set_has_all_that_did_not_fail_with_a_twin_of_the_quickest(bench: Bench) -> None:
    results = bench.run(
        _result("pytorch"), _result("a"), _result("b", answering_s=1.0), _result("wrong", Word.FAIL, answering_s=0.1)
    )
    baseline = "eager.pytorch.b1.t1"
    names = [baseline, "a.onnxruntime.b1.t1", "b.onnxruntime.b1.t1", "b.onnxruntime.b1.t1 (twin)"]
    assert bench.sets == [(number, names, baseline) for number in range(FULL.instances)]
    assert results["wrong"].timing is None
    for name in ("eager", "a", "b"):
        timing = results[name].timing
        assert timing is not None
        assert timing.complete
        assert [each.number for each in timing.instances] == list(range(FULL.instances))
        assert (results[name].twin is not None) is (name == "b")
        assert bench.kept[results[name].trial.identifier] == results[name]


def test_more_than_eight_are_timed_in_parts_with_eager_in_each(bench: Bench) -> None:
    names = [f"v{number}" for number in range(10)]
    results = bench.run(_result("pytorch"), *map(_result, names), plan=QUICK)
    first, second = (each[1] for each in bench.sets)
    assert len(first) == 9
    assert len(second) == 5
    assert first[0] == second[0] == "eager.pytorch.b1.t1"
    assert {results[name].timing.session for name in names[:7]} == {results["eager"].timing.session}  # type: ignore[union-attr]
    assert {results[name].timing.session for name in names[7:]} != {results["eager"].timing.session}  # type: ignore[union-attr]
    assert all(each.twin is None for each in results.values() if each.trial.variant not in {"eager", "v7"})


def test_an_interruption_loses_one_set_and_the_next_run_goes_on_in_the_same_session(bench: Bench) -> None:
    bench.interrupted_at = 4
    with pytest.raises(KeyboardInterrupt):
        bench.run(_result("pytorch"), _result("a"))
    kept = [bench.kept[f"{name}.b1.t1"] for name in ("eager.pytorch", "a.onnxruntime")]
    assert all(each.timing is not None and len(each.timing.instances) == 4 for each in kept)
    assert not any(each.timing.complete for each in kept if each.timing)
    bench.interrupted_at, bench.sets = None, []
    results = bench.run(*kept)
    assert [each[0] for each in bench.sets] == [4, 5, 6, 7]
    assert {each.timing.session for each in results.values() if each.timing} == {
        each.timing.session for each in kept if each.timing
    }
    assert all(each.timing.complete for each in results.values() if each.timing)


def test_a_session_of_other_rounds_is_not_gone_on_with(bench: Bench) -> None:
    bench.interrupted_at = 4
    with pytest.raises(KeyboardInterrupt):
        bench.run(_result("pytorch"), _result("a"), plan=replace(FULL, rounds=2))
    kept = [bench.kept[f"{name}.b1.t1"] for name in ("eager.pytorch", "a.onnxruntime")]
    bench.interrupted_at, bench.sets = None, []
    bench.run(*kept)
    assert [each[0] for each in bench.sets] == list(range(FULL.instances))


def test_what_is_complete_is_not_measured_again_unless_asked(bench: Bench) -> None:
    first = bench.run(_result("pytorch"), _result("a"))
    bench.sets = []
    assert bench.run(*first.values()) == first
    assert bench.sets == []
    again = bench.run(*first.values(), again=True)
    assert len(bench.sets) == FULL.instances
    assert again["a"].timing.session != first["a"].timing.session  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("had", "asked", "sets"), [(STRICT, FULL, 0), (FULL, STRICT, 12), (QUICK, FULL, 8), (FULL, QUICK, 0)]
)
def test_a_longer_measurement_stands_for_a_shorter_one_and_not_the_other_way(
    bench: Bench, had: Plan, asked: Plan, sets: int
) -> None:
    first = bench.run(_result("pytorch"), _result("a"), plan=had)
    bench.sets = []
    results = bench.run(*first.values(), plan=asked)
    assert len(bench.sets) == sets
    assert results["a"].mode == (asked.mode if sets else had.mode)


@pytest.mark.parametrize("shorter", [{"instances": 6}, {"rounds": 6}], ids=["processes", "rounds"])
def test_a_measurement_of_the_same_name_that_was_shorter_is_made_again(bench: Bench, shorter: dict[str, int]) -> None:
    first = bench.run(_result("pytorch"), _result("a"), plan=replace(FULL, **shorter))  # type: ignore[arg-type]
    bench.sets = []
    bench.run(*first.values(), plan=QUICK)
    assert bench.sets == []
    bench.run(*first.values())
    assert len(bench.sets) == FULL.instances
    strict = bench.run(_result("pytorch"), _result("a"), plan=replace(STRICT, **shorter))  # type: ignore[arg-type]
    bench.sets = []
    bench.run(*strict.values())
    assert bench.sets == []


def test_a_new_trial_among_them_has_all_of_them_measured_again(bench: Bench) -> None:
    first = bench.run(_result("pytorch"), _result("a"))
    bench.sets = []
    bench.run(*first.values(), _result("b"))
    assert len(bench.sets) == FULL.instances


@pytest.mark.parametrize("failing", ["a.onnxruntime.b1.t1", "a.onnxruntime.b1.t1 (twin)"])
def test_what_breaks_while_it_is_timed_has_no_verdict_and_the_others_go_on(bench: Bench, failing: str) -> None:
    bench.fails = {2: failing}
    results = bench.run(_result("pytorch"), _result("a", answering_s=1.0), _result("b"))
    assert (results["a"].status, results["a"].reason) == ("failed", "it broke")
    assert results["a"].verdict is results["a"].timing is None
    assert results["b"].timing is not None
    assert results["b"].timing.complete
    assert bench.sets[-1][1] == ["eager.pytorch.b1.t1", "b.onnxruntime.b1.t1"]
    assert timing_summary(results["b"].timing, 1).processes == FULL.instances


def test_untimed_leaves_all_as_it_is(bench: Bench) -> None:
    first = bench.run(_result("pytorch"), _result("a"))
    bench.sets = []
    assert bench.run(*first.values(), plan=UNTIMED) == first
    assert bench.sets == []


def test_figures_follow_a_changed_timing(bench: Bench) -> None:
    result = bench.run(_result("pytorch"), _result("a"))["a"]
    assert result.summary is not None
    assert result.speed_up is not None
    without = result.model_copy(update={"timing": None})
    assert without.summary is without.speed_up is None


def test_eager_that_breaks_stays_broken_and_is_no_yardstick_afterwards(bench: Bench) -> None:
    bench.fails = {2: _EAGER}
    results = bench.run(_result("pytorch"), _result("a"))
    assert (results["eager"].status, results["eager"].timing, results["eager"].verdict) == ("failed", None, None)
    assert [baseline for _, _, baseline in bench.sets] == [_EAGER] * 3 + [None] * (FULL.instances - 3)
    assert all(_EAGER not in names for _, names, _ in bench.sets[3:])
    assert results["a"].timing is not None
    assert results["a"].timing.complete


def test_eager_that_breaks_beside_a_second_part_is_told_and_keeps_its_own_record(bench: Bench) -> None:
    bench.fails = {1: _EAGER}
    bench.fails_in_session = 2
    results = bench.run(_result("pytorch"), *[_result(f"v{number}") for number in range(9)])
    assert results["eager"].timing is not None
    assert results["eager"].timing.complete
    assert any("no ratio to eager PyTorch any more" in words for words in bench.said)


def test_part_of_a_finished_session_stands_by_itself(bench: Bench) -> None:
    first = bench.run(_result("pytorch"), _result("a", answering_s=1.0), _result("b"))
    bench.sets = []
    kept = bench.run(first["b"])
    assert bench.sets == []
    assert kept["b"] == first["b"]


def test_an_interruption_between_two_records_loses_that_set_only(bench: Bench) -> None:
    bench.interrupted_at = 4
    with pytest.raises(KeyboardInterrupt):
        bench.run(_result("pytorch"), _result("a"))
    eager, other = (bench.kept[f"{name}.b1.t1"] for name in ("eager.pytorch", "a.onnxruntime"))
    assert eager.timing is not None
    behind = eager.model_copy(
        update={
            name: each.model_copy(update={"instances": each.instances[:3]})
            for name, each in (("timing", eager.timing), ("twin", eager.twin))
            if each is not None
        }
    )
    bench.interrupted_at, bench.sets = None, []
    results = bench.run(behind, other)
    assert [number for number, _, _ in bench.sets] == list(range(3, FULL.instances))
    for result in results.values():
        assert result.timing is not None
        assert [each.number for each in result.timing.instances] == list(range(FULL.instances))


def test_an_interrupted_session_is_not_gone_on_with_by_some_of_its_trials(bench: Bench) -> None:
    bench.interrupted_at = 4
    with pytest.raises(KeyboardInterrupt):
        bench.run(_result("pytorch", answering_s=1.0), _result("a"), _result("b"))
    kept = [bench.kept[f"{name}.b1.t1"] for name in ("eager.pytorch", "a.onnxruntime")]
    bench.interrupted_at, bench.sets = None, []
    bench.run(*kept)
    assert [number for number, _, _ in bench.sets] == list(range(FULL.instances))


def test_a_quick_look_at_a_new_trial_leaves_the_long_measurements_alone(bench: Bench) -> None:
    first = bench.run(_result("pytorch"), _result("a"))
    bench.sets = []
    results = bench.run(*first.values(), _result("new"), plan=QUICK)
    assert results["eager"] == first["eager"]
    assert results["a"] == first["a"]
    assert bench.sets == [(0, [_EAGER, "new.onnxruntime.b1.t1", "new.onnxruntime.b1.t1 (twin)"], _EAGER)]
    assert results["new"].timing is not None


def test_the_builds_of_an_artifact_take_turns_with_each_other() -> None:
    names = [*(f"v{number}" for number in range(8)), *(f"v{number}~2" for number in range(8))]
    parts = [[each.trial.variant for each in part] for part in parts_of([_result(name) for name in names])]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(len(part) <= 7 for part in parts)
    for number in range(8):
        assert any({f"v{number}", f"v{number}~2"} <= set(part) for part in parts)
    assert [len(part) for part in parts_of([_result(f"v~{number}") for number in range(9)])] == [7, 2]
