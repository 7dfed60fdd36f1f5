"""Scenarios of MLCommons LoadGen: each in a process of its own, for a trial whose answers are known.

It begins on a machine that is quiet, or was not within a minute. The process loads the model, must give the stored
answers again, is timed in a closed loop, and only then driven.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.gate import Word
from bench.load_closed_loop import measured_closed_loop
from bench.load_log import LoadRun, run_from_folder
from bench.load_messages import Drive, Driven, Prepare, Prepared
from bench.load_plan import FULL_LOAD, LoadPlan
from bench.load_records import ScenarioResult, load_folder, write_scenario
from bench.load_settings import (
    INSTALL_HINT,
    SAMPLES_PER_QUERY,
    LoadSettings,
    Scenario,
    loadgen_version,
    refusal,
)
from bench.messages import Load, WarmedUp, WarmUp
from bench.results import Answers, Trial
from bench.server_search import highest_rate
from bench.timing import wait_until_quiet
from bench.worker_process import WorkerProcess, started_worker
from harness.core.errors import BackendError, UsageError
from harness.core.machine import ForeignLoad, machine_description
from harness.core.progress import Progress
from harness.core.runs import RunDirectory

MODULE = "bench.load_generator"
_COMPARED_ROWS = 16
_WARM_UP = WarmUp(calls=40, duration_s=0.5, most_s=10.0)
# Loading, comparing and the closed loop; then what a run should take, thrice, and this much for LoadGen's own work.
_PREPARING_LIMIT_S = 300.0
_LIMIT_S = 60.0
_LIMIT_FACTOR = 3.0
MOST_BOUND_S = 60.0  # More is no bound that anybody would wait for.
_SERVER_SHARE = 0.5  # Of the closed loop's rate, where no bound was asked for.


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trial that passed the gate, or at least did not fail; `answers` are those it was judged by.

    `verdict` is the gate's word. The rows of `load` are those of the answers.
    """

    run: RunDirectory
    trial: Trial
    load: Load
    artifact_sha256: str | None
    verdict: str
    answers: Answers

    def prepare(self) -> Prepare:
        """Return the request that loads the model and holds it to its first stored answers."""
        assert self.load.rows == self.answers["rows"].tolist(), "the rows asked for are those that were answered"
        stored_bc = self.answers["outputs_bc"][:_COMPARED_ROWS]
        return Prepare(load=self.load, stored_bc=stored_bc.tolist())


@dataclass(frozen=True, kw_only=True)
class _Driver:
    """A prepared process and what its closed loop took."""

    worker: WorkerProcess
    folder: Path
    closed_loop_s: list[float]
    batch_size: int

    @property
    def call_s(self) -> float:
        return float(np.median(self.closed_loop_s))

    def measure(self, settings: LoadSettings, name: str, foreseen_s: float) -> LoadRun:
        """Let LoadGen drive the model."""
        folder = self.folder / name
        load = ForeignLoad()
        message = Drive(settings=settings, folder=folder.resolve())
        driven = self.worker.ask(message, Driven, limit_s=_LIMIT_S + _LIMIT_FACTOR * foreseen_s)
        foreign_cores = load.cores(worker_cpu_s=driven.cpu_s)
        run = run_from_folder(folder, settings, driven=driven, foreign_cores=foreign_cores)
        # Megabytes that say again what the record now has; the other files of LoadGen stay as evidence.
        (folder / "mlperf_log_trace.json").unlink()
        return run


def run_scenarios(
    subject: Subject,
    scenarios: Sequence[Scenario],
    progress: Progress,
    *,
    plan: LoadPlan = FULL_LOAD,
    latency_bound_s: float | None = None,
) -> list[ScenarioResult]:
    """Measure scenarios one after the other; a record is on disk before the next begins.

    A scenario that fails is a result with its reason, never the end. `latency_bound_s` makes the server a search;
    raises UsageError for a bound that is none.
    """
    if latency_bound_s is not None and not 0 < latency_bound_s <= MOST_BOUND_S:
        raise UsageError(
            f"The latency bound is {latency_bound_s * 1000:g} ms.",
            hint=f"Give more than 0 and at most {MOST_BOUND_S * 1000:.0f}.",
        )
    results = []
    with progress.task(f"{subject.trial.run} {subject.trial.identifier} under load", total=len(scenarios)) as task:
        for scenario in scenarios:
            result = _scenario_result(subject, scenario, plan, latency_bound_s)
            write_scenario(subject.run, result)
            results.append(result)
            task.advance(note=scenario)
    return results


def _scenario_result(
    subject: Subject, scenario: Scenario, plan: LoadPlan, latency_bound_s: float | None
) -> ScenarioResult:
    draft = ScenarioResult(
        trial=subject.trial,
        artifact_sha256=subject.artifact_sha256,
        verdict=subject.verdict,
        scenario=scenario,
        status="measured",
        quick=plan.quick,
        latency_bound_s=latency_bound_s if scenario == "server" else None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine_description(),
    )
    why = refusal(scenario, subject.trial.batch_size)
    if subject.verdict == Word.FAIL.value:
        why = "its verdict is FAIL, and what answers wrongly is not timed"
    if why:
        return draft.model_copy(update={"status": "refused", "reason": why})
    if loadgen_version() is None:
        reason = f"mlcommons-loadgen is not installed. {INSTALL_HINT}"
        return draft.model_copy(update={"status": "unavailable", "reason": reason})
    try:
        measured = _measured(subject, draft, plan)
    except BackendError as error:
        return draft.model_copy(update={"status": "failed", "reason": error.message})
    return draft.model_copy(update=measured)


def _measured(subject: Subject, draft: ScenarioResult, plan: LoadPlan) -> dict[str, Any]:
    """Return the measured fields; raise BackendError where the process fails, hangs, dies, or ends badly."""
    folder = load_folder(subject.run) / f"{subject.trial.identifier}.{draft.scenario}"
    if folder.is_dir():
        shutil.rmtree(folder)  # The logs of an earlier measurement beside those of this one would be its evidence.
    with ExitStack() as stack:
        worker = prepared_worker(subject, stack, folder / "process.log", quiet_within_s=plan.quiet_within_s)
        loop = measured_closed_loop(worker)
        driver = _Driver(worker=worker, folder=folder, closed_loop_s=loop.calls_s, batch_size=subject.trial.batch_size)
        fields: dict[str, Any] = {"closed_loop_s": loop.calls_s, "closed_loop_foreign_cores": loop.foreign_cores}
        if draft.scenario == "server" and draft.latency_bound_s is not None:
            fields |= _searched(driver, draft.latency_bound_s, plan)
        elif draft.scenario == "offline":
            fields |= _offline(driver, plan)
        else:
            fields |= _counted(driver, draft.scenario, plan)
        worker.finish()
    return fields


def prepared_worker(subject: Subject, stack: ExitStack, log: Path, *, quiet_within_s: float) -> WorkerProcess:
    """Wait for a quiet machine, start a process on the stack, and load, compare and warm up the model in it.

    Raises BackendError. A machine that does not become quiet is measured on all the same: the record says so.
    """
    if quiet_within_s:
        wait_until_quiet(quiet_within_s)
    worker = started_worker(stack, log, module=MODULE, limit_s=_PREPARING_LIMIT_S)
    worker.ask(subject.prepare(), Prepared)
    worker.ask(_WARM_UP, WarmedUp)
    return worker


def _counted(driver: _Driver, scenario: Scenario, plan: LoadPlan) -> dict[str, Any]:
    """Measure a number of queries: as many as the plan wants, or fewer where they would take too long."""
    samples = SAMPLES_PER_QUERY if scenario == "multi-stream" else 1
    query_s = driver.call_s * samples / driver.batch_size
    rate = _SERVER_SHARE / query_s if scenario == "server" else None
    each_s = 1 / rate if rate is not None else query_s
    queries = max(min(plan.queries, int(plan.limit_s / each_s)), 1)
    settings = LoadSettings(
        scenario=scenario,
        # A server's duration is that of its arrivals: the count alone decides it.
        min_duration_s=0.0 if scenario == "server" else min(plan.duration_s, plan.limit_s),
        min_query_count=max(queries, int(plan.duration_s / each_s)) if scenario == "server" else queries,
        samples_per_query=samples,
        expected_latency_s=query_s if scenario != "server" else None,
        offered_queries_per_s=rate,
    )
    foreseen_s = max(plan.duration_s, settings.min_query_count * each_s)
    return {"run": driver.measure(settings, "run", foreseen_s)}


def _offline(driver: _Driver, plan: LoadPlan) -> dict[str, Any]:
    """Measure one query of all samples, again where it was over before its time: a queue is faster than a loop."""
    rate = driver.batch_size / driver.call_s
    for attempt in (1, 2, 3):
        settings = LoadSettings(
            scenario="offline", min_duration_s=plan.duration_s, min_query_count=1, expected_samples_per_s=rate
        )
        run = driver.measure(settings, f"run-{attempt}", plan.duration_s)
        if run.duration_s >= plan.duration_s:
            break
        rate = run.samples_per_s
    return {"run": run}


def _searched(driver: _Driver, bound_s: float, plan: LoadPlan) -> dict[str, Any]:
    """Search for the highest rate that holds the bound."""
    if driver.call_s > bound_s:
        words = f"a call alone takes {driver.call_s * 1000:.2f} ms, longer than the bound"
        return {"search": words}

    def measure(rate: float, queries: int, name: str) -> LoadRun:
        settings = LoadSettings(
            scenario="server",
            min_duration_s=0.0,
            min_query_count=queries,
            offered_queries_per_s=rate,
            latency_bound_s=bound_s,
        )
        return driver.measure(settings, name, queries * max(1 / rate, driver.call_s))

    found = highest_rate(measure, capacity_per_s=1 / driver.call_s, bound_s=bound_s, plan=plan.search)
    return {
        "run": found.run,
        "probes": found.probes,
        "highest_per_s": found.rate_per_s,
        "search": found.words,
    }
