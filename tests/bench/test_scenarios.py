"""Real runs of LoadGen on the session's ONNX file, and every way in which one can end badly.

No test asserts a time: what is asserted is what was counted, and that a figure is what the log says.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import load_closed_loop, scenarios, worker_process
from bench.backends.interface import Description
from bench.backends.onnx_runtime import OnnxRuntime
from bench.early_stopping import holds, upper_estimate
from bench.load_generator import LoadedModel
from bench.load_log import detail_from_folder
from bench.load_messages import Drive, Driven
from bench.load_plan import FULL_LOAD, QUICK_LOAD, LoadPlan
from bench.load_records import ScenarioResult, load_folder, scenario_sentence, scenarios_of_run
from bench.load_settings import LoadSettings
from bench.load_tables import PROBE_COLUMNS, SCENARIO_COLUMNS, probe_rows, scenario_rows
from bench.scenarios import Subject, run_scenarios
from bench.server_search import SearchPlan
from bench.worker_process import WorkerProcess
from harness.core.errors import BackendError, UsageError
from harness.core.progress import SILENT

pytest.importorskip("mlperf_loadgen")

_PLAN = LoadPlan(
    queries=64,
    duration_s=0.3,
    limit_s=10.0,
    search=SearchPlan(probe_queries=459, confirming_queries=459, resolution=0.5, limit_s=1e4, confirming_limit_s=1e4),
    quick=True,
)
MakeSubject = Callable[..., Subject]


def _only(results: list[ScenarioResult]) -> ScenarioResult:
    (result,) = results
    return result


def test_single_stream_has_every_latency_that_loadgens_log_speaks_of(make_subject: MakeSubject) -> None:
    subject = make_subject()
    result = _only(run_scenarios(subject, ["single-stream"], SILENT, plan=_PLAN))
    assert result.status == "measured", result.reason
    run = result.run
    assert run is not None
    assert run.num_errors == 0
    assert run.flag == "VALID"
    assert len(run.latencies_s) == run.query_count == run.sample_count >= 64
    assert run.loadgen_version.startswith("6.0.17 @")
    assert len(set(run.seeds.values())) == 3
    assert 2085463073848966840 in run.seeds.values()
    detail = detail_from_folder(load_folder(subject.run) / f"{subject.trial.identifier}.single-stream" / "run")
    assert detail["requested_min_query_count"] == 64
    assert detail["requested_min_duration_ms"] == 300
    assert detail["result_max_latency_ns"] == round(max(run.latencies_s) * 1e9)
    logged = {each.fraction: each.latency_s for each in run.estimates if each.source == "LoadGen"}
    assert logged[0.90] == detail["early_stopping_latency_ss"] / 1e9
    for fraction in (0.90, 0.99):
        assert logged.get(fraction) == upper_estimate(np.array(run.latencies_s), fraction)
    assert len(result.closed_loop_s) == 100


def test_a_closed_loop_that_others_disturbed_makes_a_record_that_is_not_kept(
    make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crowded:
        def cores(self, *, worker_cpu_s: float) -> float:
            assert worker_cpu_s > 0
            return 0.4

    monkeypatch.setattr(load_closed_loop, "ForeignLoad", Crowded)
    subject = make_subject(batch_size=4)
    result = _only(run_scenarios(subject, ["offline"], SILENT, plan=_PLAN))
    assert result.status == "measured", result.reason
    assert result.closed_loop_foreign_cores == 0.4
    assert result.contended
    assert scenarios_of_run(subject.run) == [result]


@pytest.mark.parametrize(("within_s", "waits"), [(60.0, [60.0]), (0.0, [])])
def test_a_quiet_machine_is_waited_for_before_the_model_is_prepared(
    make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch, within_s: float, waits: list[float]
) -> None:
    waited_s: list[float] = []
    monkeypatch.setattr(scenarios, "wait_until_quiet", waited_s.append)
    # Answers that do not fit end it right after.
    plan = replace(_PLAN, quiet_within_s=within_s)
    result = _only(run_scenarios(make_subject(shift=0.1), ["single-stream"], SILENT, plan=plan))
    assert "answers otherwise" in result.reason
    assert waited_s == waits
    assert (FULL_LOAD.quiet_within_s, QUICK_LOAD.quiet_within_s) == (60.0, 0.0)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_multi_stream_counts_queries_of_eight_by_their_last_sample(make_subject: MakeSubject, batch_size: int) -> None:
    result = _only(run_scenarios(make_subject(batch_size=batch_size), ["multi-stream"], SILENT, plan=_PLAN))
    assert result.status == "measured", result.reason
    assert result.run is not None
    assert result.run.sample_count == 8 * result.run.query_count == 8 * len(result.run.latencies_s)
    # LoadGen's rule for this scenario is on p99, for which these are too few queries.
    assert result.run.flag == "INVALID" or result.run.query_count >= 662
    assert result.run.estimate_s(0.90) is not None


def test_offline_counts_samples_and_not_what_fills_the_last_batch(make_subject: MakeSubject) -> None:
    subject = make_subject(batch_size=4)
    result = _only(run_scenarios(subject, ["offline"], SILENT, plan=_PLAN))
    assert result.status == "measured", result.reason
    run = result.run
    assert run is not None
    folder = load_folder(subject.run) / f"{subject.trial.identifier}.offline" / run.log_folder
    detail = detail_from_folder(folder)
    assert run.query_count == 1
    assert run.sample_count == detail["effective_samples_per_query"]
    assert run.samples_per_s == pytest.approx(detail["result_samples_per_second"], rel=1e-3)
    assert run.estimates == []


def test_a_server_without_a_bound_is_offered_half_of_what_a_closed_loop_manages(make_subject: MakeSubject) -> None:
    result = _only(run_scenarios(make_subject(), ["server"], SILENT, plan=_PLAN))
    assert result.status == "measured", result.reason
    run = result.run
    assert run is not None
    assert run.settings.offered_queries_per_s == pytest.approx(0.5 / np.median(result.closed_loop_s))
    assert len(run.latencies_s) == run.query_count >= 64
    assert run.over_bound_count is None
    assert run.scheduled_per_s is not None


def test_a_bound_below_what_a_lone_call_takes_is_told_without_a_search(make_subject: MakeSubject) -> None:
    result = _only(run_scenarios(make_subject(), ["server"], SILENT, plan=_PLAN, latency_bound_s=1e-6))
    assert result.status == "measured"
    assert result.probes == []
    assert result.highest_per_s is None
    assert "a call alone takes" in result.search


@pytest.mark.parametrize("bound_s", [0.0, -1.0, float("nan"), 61.0])
def test_a_bound_that_is_none_is_the_users_mistake(make_subject: MakeSubject, bound_s: float) -> None:
    with pytest.raises(UsageError, match="latency bound"):
        run_scenarios(make_subject(), ["server"], SILENT, plan=_PLAN, latency_bound_s=bound_s)


@pytest.mark.parametrize(
    ("scenario", "batch_size"), [("single-stream", 8), ("server", 4), ("multi-stream", 16), ("multi-stream", 3)]
)
def test_a_batch_that_does_not_fit_a_scenario_is_refused_with_the_reason(
    make_subject: MakeSubject, scenario: Any, batch_size: int
) -> None:
    result = _only(run_scenarios(make_subject(batch_size=batch_size), [scenario], SILENT, plan=_PLAN))
    assert result.status == "refused"
    assert f"batch {'is' if scenario != 'multi-stream' else 'of'} {batch_size}" in result.reason


def test_a_model_that_answers_otherwise_than_it_was_judged_is_never_timed(make_subject: MakeSubject) -> None:
    result = _only(run_scenarios(make_subject(shift=0.1), ["single-stream"], SILENT, plan=_PLAN))
    assert (result.status, result.run, result.closed_loop_s) == ("failed", None, [])
    assert "answers otherwise" in result.reason


def test_a_model_that_runs_otherwise_than_asked_is_never_driven(
    make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = OnnxRuntime.describe

    def departing(backend: OnnxRuntime) -> Description:
        return described(backend).model_copy(update={"departures": ["8 threads, asked for 1"]})

    monkeypatch.setattr(OnnxRuntime, "describe", departing)
    with pytest.raises(BackendError, match="runs otherwise: 8 threads"):
        LoadedModel(make_subject().prepare())


def test_records_are_read_back_and_each_scenario_is_a_row_that_says_what_it_is_not(make_subject: MakeSubject) -> None:
    subject = make_subject()
    results = run_scenarios(subject, ["single-stream", "offline"], SILENT, plan=_PLAN)
    assert scenarios_of_run(subject.run) == sorted(results, key=lambda each: each.scenario)
    for result, row in zip(results, scenario_rows(results), strict=True):
        assert len(row) == len(SCENARIO_COLUMNS)
        assert result.run is not None
        sentence = scenario_sentence(result.run)
        assert sentence.startswith("Load generated by MLCommons LoadGen 6.0.17, ")
        assert sentence.endswith("minimum duration reduced from 600 s; not an MLPerf result")
        # LoadGen's flag stands with the settings it is about, never alone.
        assert "VALID" not in row
        assert "LoadGen's flag for" in row[-1]
    assert "p99 bound: n/a (n=" in scenario_rows(results)[0][-1] or results[0].run.estimate_s(0.99)  # type: ignore[union-attr]


def test_without_the_wheel_a_scenario_is_unavailable_and_says_how_to_get_it(
    make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenarios, "loadgen_version", lambda: None)
    result = _only(run_scenarios(make_subject(), ["offline"], SILENT, plan=_PLAN))
    assert result.status == "unavailable"
    assert ".[load]" in result.reason


# A backend of ours that is ONNX Runtime until a call from which on it does something else.
_TURNING = """
import os, time
from bench.backends.onnx_runtime import OnnxRuntime

class Turning(OnnxRuntime):
    calls = 0
    def step(self):
        self.calls += 1
        if self.calls > {after}:
            {deed}
        super().step()

def load(request):
    return Turning(request)
"""
_STARTER = """
import sys
sys.path.insert(0, {folder!r})
import bench.worker, bench.load_generator
bench.worker.BACKENDS = {{"turning": "turning_backend:load"}}
bench.load_generator.main()
{after}
"""


def _started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str, *, after: int = 120, at_exit: str = ""
) -> None:
    """Let processes start with a backend that turns after so many calls."""
    (tmp_path / "turning_backend.py").write_text(_TURNING.format(after=after, deed=deed))
    starter = tmp_path / "start.py"
    starter.write_text(_STARTER.format(folder=str(tmp_path), after=at_exit))
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -P {starter}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    # Turning is by calls, so their number must be known: 7 answers, then these and the closed loop's 103.
    monkeypatch.setattr(scenarios, "_WARM_UP", scenarios.WarmUp(calls=5, duration_s=0.0, most_s=10.0))
    monkeypatch.setattr(load_closed_loop, "_MOST_ATTEMPTS", 1)


def test_a_server_with_a_bound_records_every_rate_that_was_tried(
    make_subject: MakeSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 459 queries are the fewest that can hold a bound: from here on a call is a nap, so that they do not take a minute.
    _started(tmp_path, monkeypatch, "return time.sleep(0.002)", after=12)
    # Five seconds: the bound holds at any rate below the capacity, on any machine that runs the tests.
    result = _only(run_scenarios(make_subject(backend="turning"), ["server"], SILENT, plan=_PLAN, latency_bound_s=5.0))
    assert result.status == "measured", result.reason
    assert [probe.held for probe in result.probes] == [True, True]
    assert [probe.confirming for probe in result.probes] == [False, True]
    assert result.highest_per_s == result.probes[-1].offered_per_s
    assert result.run is not None
    assert result.run.over_bound_count == result.probes[-1].over_bound_count == 0
    for probe in result.probes:
        assert probe.held == holds(probe.query_count, probe.over_bound_count) == (probe.flag == "VALID")
    assert all(len(row) == len(PROBE_COLUMNS) for row in probe_rows(result))
    assert "p99 <= 5000 ms held at" in scenario_rows([result])[0][-1]


def test_loadgen_and_the_search_agree_on_a_bound_that_does_not_hold(
    make_subject: MakeSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every twentieth call is slow, and so at least one query in twenty: at no rate is that one in a hundred.
    deed = "return time.sleep(0.05 if self.calls % 20 == 0 else 0.001)"
    _started(tmp_path, monkeypatch, deed, after=12)
    plan = replace(_PLAN, search=replace(_PLAN.search, limit_s=5.0))
    result = _only(run_scenarios(make_subject(backend="turning"), ["server"], SILENT, plan=plan, latency_bound_s=0.04))
    assert result.status == "measured", result.reason
    assert (result.highest_per_s, result.run) == (None, None)
    assert [(probe.held, probe.flag) for probe in result.probes] == [(False, "INVALID")] * len(result.probes)
    assert all(probe.over_bound_count >= 459 // 20 for probe in result.probes)


_BUG = ("raise ValueError('seven')", "ValueError: seven")


@pytest.mark.parametrize(
    ("scenario", "deed", "words"),
    [
        # How an exception is caught depends on the thread that the scenario calls from; how a process dies does not.
        ("single-stream", *_BUG),
        ("multi-stream", *_BUG),
        ("server", *_BUG),
        ("offline", *_BUG),
        (
            "offline",
            "from harness.core.errors import BackendError; raise BackendError('worn out', hint='')",
            "worn out",
        ),
        ("single-stream", "os.kill(os.getpid(), 9)", "SIGKILL"),
        ("server", "os.kill(os.getpid(), 11)", "SIGSEGV"),
    ],
)
def test_a_model_that_fails_under_load_is_one_result_in_words(
    make_subject: MakeSubject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scenario: Any,
    deed: str,
    words: str,
) -> None:
    _started(tmp_path, monkeypatch, deed)
    result = _only(run_scenarios(make_subject(backend="turning"), [scenario], SILENT, plan=_PLAN))
    assert (result.status, result.run) == ("failed", None)
    assert words in result.reason


def test_a_model_that_hangs_under_load_is_killed_at_its_limit(
    make_subject: MakeSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _started(tmp_path, monkeypatch, "time.sleep(600)")
    monkeypatch.setattr(scenarios, "_LIMIT_S", 1.0)
    result = _only(run_scenarios(make_subject(backend="turning"), ["server"], SILENT, plan=_PLAN))
    assert result.status == "failed"
    assert "no answer within" in result.reason


def test_a_process_that_crashes_after_a_good_reply_is_not_believed(
    make_subject: MakeSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _started(tmp_path, monkeypatch, "pass", at_exit="import os; os.kill(os.getpid(), 11)")
    result = _only(run_scenarios(make_subject(backend="turning"), ["offline"], SILENT, plan=_PLAN))
    assert (result.status, result.run) == ("failed", None)
    assert "SIGSEGV" in result.reason
    folder = load_folder(make_subject().run) / "fp32.turning.b1.t1.offline"
    assert json.loads((folder.with_name(folder.name + ".json")).read_text())["status"] == "failed"


def test_a_process_that_does_not_end_after_a_good_reply_is_not_believed(
    make_subject: MakeSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _started(tmp_path, monkeypatch, "pass", at_exit="import time; time.sleep(600)")
    monkeypatch.setattr(worker_process, "_CLOSING_LIMIT_S", 1.0)
    result = _only(run_scenarios(make_subject(backend="turning"), ["offline"], SILENT, plan=_PLAN))
    assert (result.status, result.run) == ("failed", None)
    assert "did not end within" in result.reason


def test_a_trial_whose_verdict_is_fail_is_not_timed(make_subject: MakeSubject) -> None:
    subject = replace(make_subject(), verdict="FAIL")
    result = _only(run_scenarios(subject, ["single-stream"], SILENT, plan=_PLAN))
    assert (result.status, result.closed_loop_s) == ("refused", [])
    assert "verdict is FAIL" in result.reason


def test_a_process_killed_from_outside_is_an_error_that_names_the_signal(
    make_subject: MakeSubject, tmp_path: Path
) -> None:
    subject = make_subject()
    with WorkerProcess(tmp_path / "log", module=scenarios.MODULE, limit_s=60.0) as worker:
        worker.ask(subject.prepare(), scenarios.Prepared)
        killer = threading.Timer(0.5, os.kill, (worker._process.pid, signal.SIGKILL))
        killer.start()
        settings = LoadSettings(scenario="server", min_duration_s=0.0, min_query_count=600, offered_queries_per_s=10.0)
        with pytest.raises(BackendError, match="SIGKILL"):
            worker.ask(Drive(settings=settings, folder=tmp_path / "logs"), Driven)
        killer.join()


_QUEUE = """
from bench.backends.onnx_runtime import OnnxRuntime

class Queue(OnnxRuntime):
    submitted = 0
    request_count = 1
    def submit(self, images):
        assert images.shape == (4, 3, 64, 64), images.shape
        self.submitted += 1
        self.bind(images)
        self.step()
    def wait(self):
        self.sync()
        print("submitted", self.submitted, flush=True)

def load(request):
    return Queue(request)
"""


def test_a_queued_backend_is_handed_all_batches_of_the_offline_query_at_once(
    make_subject: MakeSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _started(tmp_path, monkeypatch, "pass")
    (tmp_path / "turning_backend.py").write_text(_QUEUE)
    subject = make_subject(batch_size=4, backend="turning")
    result = _only(run_scenarios(subject, ["offline"], SILENT, plan=_PLAN))
    assert result.status == "measured", result.reason
    assert result.run is not None
    folder = load_folder(subject.run) / f"{subject.trial.identifier}.offline"
    batches = -(-result.run.sample_count // 4)
    counts = [int(line.split()[1]) for line in (folder / "process.log").read_text().splitlines() if "submitted" in line]
    # Counted on from the warm-up, and from an earlier query that was over too soon.
    assert counts[-1] - counts[-2] == batches
