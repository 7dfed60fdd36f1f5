"""Which trials are driven under load, what of earlier measurements stands, and how it is told."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from bench import loads
from bench.gate import Verdict, Word
from bench.idle_gap import Gap, IdleGapResult
from bench.load_records import NOT_MLPERF, ScenarioResult
from bench.loads import LoadRequest, Loads, load_lines, loads_json, loads_of_results, measure_loads
from bench.results import Trial, TrialResult
from harness.cli import cli
from harness.core.errors import ArtifactError
from harness.core.progress import SILENT

_MACHINE: dict[str, Any] = {"processor": "made up"}


def _result(name: str, word: Word | None = Word.PASS, batch_size: int = 1, **changes: Any) -> TrialResult:
    made: dict[str, Any] = {
        "trial": Trial(
            run="films",
            variant=name,
            artifact=f"export/{name}.onnx",
            backend="onnxruntime",
            precision="fp32",
            batch_size=batch_size,
            threads=1,
        ),
        "status": "measured" if word else "failed",
        "verdict": Verdict(word=word, step="parity", reason="") if word else None,
        "artifact_sha256": f"hash of {name}",
    }
    made |= {"margin": 0.01, "margin_set": "", "mode": "full", "created": "", "machine": _MACHINE}
    return TrialResult(**{**made, **changes})


def _scenario(result: TrialResult, scenario: str, **changes: Any) -> ScenarioResult:
    made: dict[str, Any] = {"trial": result.trial, "artifact_sha256": result.artifact_sha256, "verdict": "PASS"}
    made |= {"scenario": scenario, "status": "measured", "quick": False, "created": "", "machine": _MACHINE}
    return ScenarioResult(**{**made, **changes})


def _gap(result: TrialResult, **changes: Any) -> IdleGapResult:
    made: dict[str, Any] = {"trial": result.trial, "artifact_sha256": result.artifact_sha256, "verdict": "PASS"}
    made |= {"quick": False, "created": "", "machine": _MACHINE}
    made |= {"closed_loop_s": [0.01] * 3, "gaps": [Gap(pause_s=1.0, first_call_s=[0.02, 0.03, 0.04])]}
    return IdleGapResult(**{**made, **changes})


class Driven:
    """Stands in for the measurement and for what lies on disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scenarios: list[tuple[str, list[str], float | None, bool]] = []
        self.gaps: list[str] = []
        self.stored: list[ScenarioResult] = []
        self.stored_gaps: list[IdleGapResult] = []
        monkeypatch.setattr(loads, "_subject", lambda _reference, result: result)
        monkeypatch.setattr(loads, "run_scenarios", self._run)
        monkeypatch.setattr(loads, "measure_idle_gaps", self._measure)
        monkeypatch.setattr(loads, "scenarios_of_run", lambda _run: self.stored)
        monkeypatch.setattr(loads, "idle_gaps_of_run", lambda _run: self.stored_gaps)

    def _run(self, result: Any, names: Any, _progress: Any, *, plan: Any, latency_bound_s: Any) -> list[ScenarioResult]:
        self.scenarios.append((result.trial.variant, list(names), latency_bound_s, plan.quick))
        return [_scenario(result, name) for name in names]

    def _measure(self, result: Any, _plan: Any) -> IdleGapResult:
        self.gaps.append(result.trial.variant)
        return _gap(result)

    def measure(self, *results: TrialResult, **request: Any) -> Loads:
        reference: Any = type("Reference", (), {"run": None})
        return measure_loads(reference, results, LoadRequest(**request), SILENT)


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> Driven:
    return Driven(monkeypatch)


def test_what_failed_is_not_driven_and_a_batch_only_where_it_fits(driven: Driven) -> None:
    results = [_result("a"), _result("b", Word.FAIL), _result("c", None), _result("d", Word.INCONCLUSIVE, batch_size=8)]
    found = driven.measure(*results, loads=("single-stream", "multi-stream", "offline", "server"))
    assert driven.scenarios == [
        ("a", ["single-stream", "multi-stream", "server", "offline"], None, False),
        ("d", ["multi-stream", "offline"], None, False),
    ]
    assert len(found.scenarios) == 6
    assert found.gaps == driven.gaps == []


def test_nothing_is_driven_unless_asked(driven: Driven) -> None:
    assert driven.measure(_result("a")) == Loads(scenarios=[], gaps=[])


def test_only_what_is_missing_is_measured(driven: Driven) -> None:
    result = _result("a")
    driven.stored, driven.stored_gaps = [_scenario(result, "offline")], [_gap(result)]
    found = driven.measure(result, loads=("offline", "single-stream", "idle-gap"))
    assert driven.scenarios == [("a", ["single-stream"], None, False)]
    assert driven.gaps == []
    assert {each.scenario for each in found.scenarios} == {"offline", "single-stream"}
    assert len(found.gaps) == 1
    driven.measure(result, loads=("offline", "idle-gap"), force=True)
    assert driven.scenarios[1:] == [("a", ["offline"], None, False)]
    assert driven.gaps == ["a"]


@pytest.mark.parametrize(
    "changes",
    [
        {"artifact_sha256": "another file"},
        {"machine": {"processor": "another"}},
        {"status": "failed"},
        {"quick": True},
        {"latency_bound_s": 0.02},
    ],
)
def test_an_earlier_measurement_of_other_things_does_not_stand(driven: Driven, changes: dict[str, Any]) -> None:
    result = _result("a")
    driven.stored = [_scenario(result, "server", **changes)]
    driven.measure(result, loads=("server",), latency_bound_s=0.01)
    assert driven.scenarios == [("a", ["server"], 0.01, False)]


def test_a_report_has_only_what_was_measured_of_these_very_files(driven: Driven) -> None:
    good, bad, other = _result("good"), _result("bad", Word.FAIL), _result("other")
    stale = _scenario(other, "offline", artifact_sha256="an earlier file")
    driven.stored = [_scenario(good, "offline"), _scenario(bad, "offline"), stale]
    driven.stored_gaps = [_gap(good), _gap(bad)]
    run: Any = None
    found = loads_of_results(run, [good, bad, other])
    assert [each.trial.variant for each in found.scenarios] == ["good"]
    assert [each.trial.variant for each in found.gaps] == ["good"]


def test_every_table_under_load_says_that_it_is_no_mlperf_result() -> None:
    result = _result("a")
    found = Loads(scenarios=[_scenario(result, "offline", status="refused", reason="no | room")], gaps=[_gap(result)])
    text = "\n".join(load_lines(found))
    assert NOT_MLPERF in text
    assert NOT_MLPERF in found.tables()[0][0]
    assert "no \\| room" in text
    assert "| 10.00 | 1 s | 30.00 | 3.00 |" in text
    assert load_lines(Loads(scenarios=[], gaps=[])) == []
    assert loads_json(found)["idle_gaps"][0]["gaps"][0]["first_call_s"] == [0.02, 0.03, 0.04]


def test_a_bound_without_a_server_is_wrong_usage(session_run: Any) -> None:
    arguments = ["bench", "--runs", str(session_run.runs_folder), "--latency-bound", "10"]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code != 0
    assert "--latency-bound is of a server" in str(shown.exception)


def test_records_of_another_version_are_measured_again(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    def malformed(_run: Any) -> list[ScenarioResult]:
        raise ArtifactError("not of this version", hint="")

    monkeypatch.setattr(loads, "scenarios_of_run", malformed)
    said: list[str] = []
    reference: Any = type("Reference", (), {"run": type("Run", (), {"name": "films"})})
    progress: Any = type("Progress", (), {"say": said.append})
    found = measure_loads(reference, [_result("a")], LoadRequest(loads=("offline",)), progress)
    assert [each.scenario for each in found.scenarios] == ["offline"]
    assert "not of this version" in said[0]
