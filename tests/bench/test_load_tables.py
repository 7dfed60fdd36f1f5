"""Rows of scenarios: what a reader is told, and what is never told alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.load_log import LoadRun, TailEstimate
from bench.load_records import Probe, ScenarioResult
from bench.load_settings import LoadSettings
from bench.load_tables import PROBE_COLUMNS, SCENARIO_COLUMNS, TABLE_NOTE, probe_rows, scenario_rows
from bench.results import Trial

_TRIAL = Trial(
    run="d2-resnet18-ce", variant="fp32", artifact="x", backend="openvino", precision="fp32", batch_size=1, threads=2
)


def _run(count: int, **changes: Any) -> LoadRun:
    latencies_s = np.linspace(0.008, 0.009, count).tolist()
    values: dict[str, Any] = {
        "settings": LoadSettings(scenario="single-stream", min_duration_s=5.0, min_query_count=count),
        "loadgen_version": "6.0.17 @ d6147c7eb7",
        "seeds": {},
        "image_count": 1,
        "flag": "VALID",
        "reasons": [],
        "query_count": count,
        "sample_count": count,
        "duration_s": 5.5,
        "latencies_s": latencies_s,
        "estimates": [TailEstimate(fraction=0.90, latency_s=0.0095, source="LoadGen")],
        "samples_per_s": count / 5.5,
        "scheduled_per_s": None,
        "over_bound_count": None,
        "num_errors": 0,
        "cpu_s": 1.0,
        "foreign_cores": 0.0,
        "log_folder": "run",
    }
    return LoadRun(**values | changes)


def _result(**changes: Any) -> ScenarioResult:
    values: dict[str, Any] = {
        "trial": _TRIAL,
        "artifact_sha256": None,
        "verdict": "PASS",
        "scenario": "single-stream",
        "status": "measured",
        "quick": False,
        "created": "",
        "machine": {},
    }
    return ScenarioResult(**values | changes)


def _cells(result: ScenarioResult) -> dict[str, str]:
    (row,) = scenario_rows([result])
    return dict(zip(SCENARIO_COLUMNS, row, strict=True))


def test_a_percentile_that_the_sample_cannot_support_is_not_given() -> None:
    cells = _cells(_result(run=_run(100)))
    assert (cells["p50 ms"], cells["p90 ms"], cells["p99 ms"]) == ("8.49", "8.90", "n/a")
    assert (cells["p90 bound ms"], cells["p99 bound ms"]) == ("9.50", "n/a")
    assert cells["note"] == (
        "p99 bound: n/a (n=100, needs 662); LoadGen's flag for at least 100 queries and 5 s: VALID"
    )


def test_foreign_load_and_quick_are_told() -> None:
    note = _cells(_result(run=_run(700, foreign_cores=0.4), quick=True))["note"]
    assert note.endswith("contended: others used up to 0.40 core; quick")
    assert "contended" not in _cells(_result(run=_run(700, foreign_cores=None)))["note"]
    before = _result(run=_run(700), closed_loop_foreign_cores=0.2)
    assert _cells(before)["note"].endswith("contended: others used up to 0.20 core")
    assert before.contended
    for quiet_cores in (None, 0.15):
        assert not _result(run=_run(700), closed_loop_foreign_cores=quiet_cores).contended


def test_offline_has_a_rate_and_no_latency() -> None:
    settings = LoadSettings(scenario="offline", min_duration_s=5.0, min_query_count=1)
    cells = _cells(_result(scenario="offline", run=_run(100, settings=settings, query_count=1, estimates=[])))
    assert (cells["N"], cells["samples/s"], cells["p50 ms"], cells["p99 bound ms"]) == ("100", "18.2", "", "")
    assert cells["note"] == "LoadGen's flag for 1 query and 5 s: VALID"


@pytest.mark.parametrize(
    ("highest_per_s", "words"),
    [(50.0, "p99 <= 30 ms held at 50.0/s; 52.0 did not hold"), (None, "no rate found for p99 <= 30 ms; 52.0 did not")],
)
def test_a_search_says_what_it_found_and_how_contended_its_probes_were(highest_per_s: float | None, words: str) -> None:
    probe = Probe(
        offered_per_s=52.0,
        completed_per_s=51.0,
        query_count=662,
        over_bound_count=2,
        p50_s=0.01,
        p99_s=None,
        held=False,
        flag="INVALID",
        confirming=False,
        foreign_cores=0.3,
        log_folder="probe-01",
    )
    changes = {"highest_per_s": highest_per_s, "search": "52.0 did not hold", "latency_bound_s": 0.030}
    result = _result(scenario="server", probes=[probe], **changes)
    note = _cells(result)["note"]
    assert note.startswith(words)
    assert note.endswith("contended: others used up to 0.30 core")
    (row,) = probe_rows(result)
    assert row == ["52.0", "51.0", "662", "2", "10.00", "n/a", "no", "search", "0.30"]
    assert len(row) == len(PROBE_COLUMNS)


def test_what_was_not_measured_is_a_row_with_its_reason() -> None:
    assert _cells(_result(status="refused", reason="no room"))["note"] == "no room"
    assert _cells(_result(status="failed", reason="broke", scenario="server", latency_bound_s=0.03))["note"] == "broke"


def test_the_note_under_a_table_says_what_it_is_not() -> None:
    assert "not an MLPerf result" in TABLE_NOTE
    assert "reduced from 600 s" in TABLE_NOTE
