"""Which trials are driven under load, what of an earlier measurement stands, and all of it for the report.

`idle-gap` is no scenario of LoadGen's: the first call after a pause, beside the closed loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bench.gate import Word
from bench.idle_gap import (
    FULL_IDLE,
    IDLE_COLUMNS,
    QUICK_IDLE,
    IdleGapResult,
    idle_gap_rows,
    idle_gaps_of_run,
    measure_idle_gaps,
)
from bench.load_plan import FULL_LOAD, QUICK_LOAD
from bench.load_records import NOT_MLPERF, ScenarioResult, scenario_sentence, scenarios_of_run
from bench.load_settings import SCENARIOS, Scenario, refusal
from bench.load_tables import PROBE_COLUMNS, SCENARIO_COLUMNS, TABLE_NOTE, probe_rows, scenario_rows
from bench.proving import load_message
from bench.results import TrialResult, answers_from_file, answers_path
from bench.scenarios import Subject, run_scenarios
from bench.tables import markdown_table
from bench.trials import Reference
from harness.core.errors import ArtifactError
from harness.core.progress import Progress
from harness.core.runs import RunDirectory

Load = Literal["single-stream", "multi-stream", "server", "offline", "idle-gap"]
LOADS: tuple[Load, ...] = get_args(Load)


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """What is to be measured under load; `latency_bound_s` makes the server a search."""

    loads: tuple[Load, ...] = ()
    latency_bound_s: float | None = None
    quick: bool = False
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Loads:
    """What is known of trials under load."""

    scenarios: list[ScenarioResult]
    gaps: list[IdleGapResult]

    @property
    def measured(self) -> bool:
        return bool(self.scenarios or self.gaps)

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Return title, columns and rows of whatever there is."""
        tables = []
        if self.scenarios:
            tables.append((f"Under load ({NOT_MLPERF})", SCENARIO_COLUMNS, scenario_rows(self.scenarios)))
        if self.gaps:
            tables.append(("The first call after a pause", IDLE_COLUMNS, idle_gap_rows(self.gaps)))
        return tables


def measure_loads(
    reference: Reference, results: Sequence[TrialResult], request: LoadRequest, progress: Progress
) -> Loads:
    """Measure what was asked for of every trial that did not fail and whose batch fits; keep what still stands."""
    scenarios: list[ScenarioResult] = []
    gaps: list[IdleGapResult] = []
    if not request.loads:
        return Loads(scenarios=scenarios, gaps=gaps)
    for scenario in [each for each in SCENARIOS if each in request.loads]:
        reasons = [refusal(scenario, result.trial.batch_size) for result in results]
        if all(reasons):  # What fits no trial is told, and no row that is missing.
            progress.say(f"{reference.run.name}: no {scenario}: {reasons[0] if reasons else 'no trial'}")
    try:
        earlier = loads_of_results(reference.run, results)
    except ArtifactError as error:  # Of another version: measured again, and written over.
        progress.say(f"{reference.run.name}: what was measured under load before does not stand: {error.message}")
        earlier = Loads(scenarios=[], gaps=[])
    for result in results:
        if result.verdict is None or result.verdict.word is Word.FAIL or result.status != "measured":
            continue
        wanted = [each for each in SCENARIOS if each in request.loads and not refusal(each, result.trial.batch_size)]
        kept = [] if request.force else [each for each in earlier.scenarios if _stands(each, result, request)]
        have = {each.scenario for each in kept}
        missing: list[Scenario] = [each for each in wanted if each not in have]
        subject = _subject(reference, result)
        scenarios += [each for each in kept if each.scenario in wanted]
        if missing:
            plan = QUICK_LOAD if request.quick else FULL_LOAD
            bound_s = request.latency_bound_s
            scenarios += run_scenarios(subject, missing, progress, plan=plan, latency_bound_s=bound_s)
        if "idle-gap" in request.loads:
            known = [] if request.force else [each for each in earlier.gaps if _gap_stands(each, result, request)]
            if not known:
                progress.say(f"{result.trial.run} {result.trial.identifier}: the first call after pauses")
                known = [measure_idle_gaps(subject, QUICK_IDLE if request.quick else FULL_IDLE)]
            gaps += known
    return Loads(scenarios=scenarios, gaps=gaps)


def _subject(reference: Reference, result: TrialResult) -> Subject:
    answers = answers_from_file(answers_path(reference.run, result.trial))
    assert result.verdict is not None, "only judged trials are driven"
    return Subject(
        run=reference.run,
        trial=result.trial,
        load=load_message(reference, result.trial, answers["rows"]),
        artifact_sha256=result.artifact_sha256,
        verdict=result.verdict.word.value,
        answers=answers,
    )


def _stands(earlier: ScenarioResult, result: TrialResult, request: LoadRequest) -> bool:
    same = (earlier.trial, earlier.machine) == (result.trial, result.machine) and earlier.status == "measured"
    same = same and not earlier.contended
    same_bound = earlier.scenario != "server" or earlier.latency_bound_s == request.latency_bound_s
    return same and same_bound and (request.quick or not earlier.quick)


def _gap_stands(earlier: IdleGapResult, result: TrialResult, request: LoadRequest) -> bool:
    same = (earlier.trial, earlier.machine) == (result.trial, result.machine) and earlier.status == "measured"
    return same and not earlier.contended and (request.quick or not earlier.quick)


def loads_of_results(run: RunDirectory, results: Iterable[TrialResult]) -> Loads:
    """Return what was measured under load of the very artifacts of these results, where those did not fail since."""
    able = {
        result.trial.identifier: result.artifact_sha256
        for result in results
        if result.verdict is not None and result.verdict.word is not Word.FAIL
    }
    return Loads(
        scenarios=[
            each
            for each in scenarios_of_run(run)
            if each.trial.identifier in able and able[each.trial.identifier] == each.artifact_sha256
        ],
        gaps=[
            each
            for each in idle_gaps_of_run(run)
            if each.trial.identifier in able and able[each.trial.identifier] == each.artifact_sha256
        ],
    )


def load_lines(loads: Loads) -> list[str]:
    """Return the tables of a report, without the column of runs."""
    lines: list[str] = []
    if loads.scenarios:
        rows = [row[1:] for row in scenario_rows(loads.scenarios)]
        lines += ["Under load:", "", *markdown_table(SCENARIO_COLUMNS[1:], rows), "", TABLE_NOTE, ""]
    for each in loads.scenarios:
        if each.run is not None:
            lines.append(f"- {each.trial.identifier}, {each.scenario}: {scenario_sentence(each.run)}.")
    lines += [""] if loads.scenarios else []
    for each in loads.scenarios:
        if each.probes:
            lines += [f"{each.trial.identifier}, rates tried for p99 <= {1e3 * (each.latency_bound_s or 0):g} ms:", ""]
            lines += [*markdown_table(PROBE_COLUMNS, probe_rows(each)), ""]
    if loads.gaps:
        rows = [row[1:] for row in idle_gap_rows(loads.gaps)]
        lines += ["The first call after a pause:", "", *markdown_table(IDLE_COLUMNS[1:], rows), ""]
    return lines


def loads_json(loads: Loads) -> dict[str, Any]:
    """Return everything but the single latencies."""
    scenarios = [
        each.model_dump(mode="json", exclude={"run": {"latencies_s"}, "closed_loop_s": True})
        for each in loads.scenarios
    ]
    return {"scenarios": scenarios, "idle_gaps": [each.model_dump(mode="json") for each in loads.gaps]}
