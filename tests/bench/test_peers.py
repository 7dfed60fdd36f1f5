"""Our clock beside others': the order of turns, what a busy machine does, the record of a series, and the last line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bench.messages import Block, Loaded, Timed, WarmedUp, WarmUp
from bench.peers import __main__ as peers
from bench.peers import alternating, self_comparison
from bench.peers.__main__ import _counts
from bench.peers.alternating import Rounds, alternated
from bench.peers.self_comparison import SelfComparison, Series
from bench.peers.slowed_worker import SLOWDOWN, Slowed
from bench.peers.subject import Subject
from bench.peers.telling import KEYS, Line, last_line, table
from bench.time_statistics import ratio_from_logs
from bench.timing import FULL
from bench.worker_process import WorkerProcess
from harness.core.errors import BackendError
from tests.bench.test_worker import _load

_FIVE = {"benchmark_app_latency", "benchmark_app_fps", "loadgen_p50", "aa_different", "aa_total"}


def _others_use(monkeypatch: pytest.MonkeyPatch, cores: list[float | None]) -> None:
    """Let each round find that others used so many cores."""

    class Told:
        def cores(self, *, worker_cpu_s):
            return cores.pop(0)

    monkeypatch.setattr(alternating, "ForeignLoad", Told)


def _turns(order: list[str], figures: list[tuple[float, float]]) -> dict[str, Callable[[], dict[str, float]]]:
    """Blocks that note whose turn it is, and measure the next figure."""

    def block(name: str, place: int) -> Callable[[], dict[str, float]]:
        mine = iter([each[place] for each in figures])

        def measure() -> dict[str, float]:
            order.append(name)
            return {name: next(mine)}

        return measure

    return {"ours": block("ours", 0), "theirs": block("theirs", 1)}


def test_neither_always_follows_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    _others_use(monkeypatch, [0.0] * 4)
    found = alternated(_turns(order, [(2.0, 1.0)] * 4), 4, wait=False)
    first = order[::2]
    assert sorted(first) == ["ours", "ours", "theirs", "theirs"]
    assert (len(found.figures), found.rejected, found.contended) == (4, 0, False)


def test_the_ratio_is_of_neighbours_so_drift_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _others_use(monkeypatch, [None] * 3)  # A system that does not tell rejects nothing.
    found = alternated(_turns([], [(1.01, 1.0), (2.02, 2.0), (4.04, 4.0)]), 3, wait=False)
    ratio = found.ratio("ours", "theirs")
    assert ratio.estimate == pytest.approx(1.01)
    assert ratio.low == pytest.approx(1.01)
    assert ratio.high == pytest.approx(1.01)


def test_a_round_in_which_others_worked_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _others_use(monkeypatch, [0.0, 0.9, 0.1])
    found = alternated(_turns([], [(1.0, 1.0), (9.0, 1.0), (1.0, 1.0)]), 2, wait=False)
    assert found.ratio("ours", "theirs").estimate == pytest.approx(1.0)
    assert (found.rejected, found.contended) == (1, False)


def test_a_machine_that_is_never_quiet_is_said_to_be_contended(monkeypatch: pytest.MonkeyPatch) -> None:
    _others_use(monkeypatch, [0.0, 0.9, 0.9, 0.9])
    found = alternated(_turns([], [(1.0, 1.0)] * 4), 2, wait=False)
    assert (len(found.figures), found.rejected, found.contended) == (4, 3, True)


def _line(name: str, ratio: float) -> Line:
    rounds = Rounds(figures=[{"ours": ratio, "theirs": 1.0}] * 3, rejected=1, contended=False)
    return Line.of_durations(name, rounds, "ours", boundaries="ours COMPUTE; theirs their own")


def test_the_last_line_has_the_five_keys_even_where_a_peer_is_missing() -> None:
    counts = {"aa_different": 2, "aa_total": 40}
    told = json.loads(last_line([_line(KEYS["benchmark_app_latency"], 1.01234567)], counts))
    assert told.keys() >= _FIVE
    assert told["benchmark_app_latency"] == 1.0123
    assert told["loadgen_p50"] is None
    assert (told["aa_different"], told["aa_total"]) == (2, 40)


def test_the_table_names_what_was_timed() -> None:
    text = table([_line("benchmark_app latency, compute", 1.01)])
    assert "1.0100 [1.0100, 1.0100]" in text
    assert "1 rejected" in text
    assert "ours COMPUTE; theirs their own" in text


def _comparison(**changes: Any) -> SelfComparison:
    made = {
        "kind": "same",
        "number": 0,
        "backend": "openvino",
        "model_sha256": "0" * 64,
        "threads": 2,
        "mode": "full",
        "instances": 8,
        "rounds": 8,
        "created": "2026-11-25T00:00:00+00:00",
        "attempts": 1,
        "contended": False,
        "ratio": ratio_from_logs([0.0, 0.001]),
        "word": "same",
    }
    return SelfComparison(**(made | changes))


def test_contended_comparisons_are_counted_apart() -> None:
    same = [_comparison(), _comparison(word="faster"), _comparison(word="slower", contended=True, attempts=3)]
    slowed = [_comparison(kind="slowed", word=word) for word in ("slower", "undecided", "faster")]
    assert _counts(same, slowed) == {
        "aa_different": 1,
        "aa_total": 2,
        "slowdowns_found": 1,
        "slowdowns_total": 3,
        "contended_comparisons": 1,
        "repeated_comparisons": 2,
    }


@pytest.fixture
def series(tmp_path: Path) -> Series:
    (tmp_path / "resnet18.onnx").write_bytes(b"model")
    subject = Subject(folder=tmp_path, threads=2)
    return Series(subject=subject, plan=FULL, path=tmp_path / "series.jsonl", most_attempts=2)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Sessions without processes: `asked` notes each; those named in `contended` are, `ends` raises once."""
    told = SimpleNamespace(asked=[], contended=set(), ends=None)

    def session(participants: Any, plan: Any, name: str) -> Any:
        told.asked.append(name)
        if name == told.ends:
            raise KeyboardInterrupt
        return ratio_from_logs([0.0, 0.001]), name in told.contended

    monkeypatch.setattr(self_comparison, "_session", session)
    monkeypatch.setattr(self_comparison, "_participants", lambda *arguments: [])
    return told


def test_an_interrupted_series_goes_on_where_it_stopped(series: Series, sessions: SimpleNamespace) -> None:
    sessions.ends = "same 2 1"
    with pytest.raises(KeyboardInterrupt):
        series.compared("same", 4, lambda said: None)
    sessions.ends = None
    sessions.asked.clear()
    found = series.compared("same", 4, lambda said: None)
    assert sessions.asked == ["same 2 1", "same 3 1"]
    assert [each.number for each in found] == [0, 1, 2, 3]
    assert [each.backend for each in found] == ["openvino", "onnxruntime"] * 2


def test_a_contended_comparison_is_repeated_a_few_times_and_tried_again_the_next_time(
    series: Series, sessions: SimpleNamespace
) -> None:
    sessions.contended = {"same 0 1", "same 1 1", "same 1 2"}
    found = series.compared("same", 2, lambda said: None)
    assert [(each.attempts, each.contended) for each in found] == [(2, False), (2, True)]
    sessions.contended.clear()
    sessions.asked.clear()
    assert not any(each.contended for each in series.compared("same", 2, lambda said: None))
    assert sessions.asked == ["same 1 1"]


def test_another_model_is_another_series_and_a_finished_one_is_put_aside(
    series: Series, sessions: SimpleNamespace
) -> None:
    series.compared("same", 1, lambda said: None)
    series.subject.model.write_bytes(b"another")
    series.compared("same", 1, lambda said: None)
    assert sessions.asked == ["same 0 1"] * 2
    series.archive()
    assert not series.path.exists()
    (kept,) = series.path.parent.glob("series-*.jsonl")
    assert len(kept.read_text().splitlines()) == 2


def test_comparisons_of_another_length_are_not_taken_for_these(series: Series, sessions: SimpleNamespace) -> None:
    shorter = replace(series, plan=replace(FULL, rounds=2))
    for each in (shorter, series, shorter):
        each.compared("same", 1, lambda said: None)
    assert sessions.asked == ["same 0 1"] * 2


def test_a_file_that_is_no_series_is_an_error_in_words(series: Series, sessions: SimpleNamespace) -> None:
    series.path.write_text("{}\n")
    with pytest.raises(BackendError, match="no series"):
        series.compared("same", 1, lambda said: None)


def test_a_file_that_is_no_series_is_told_before_anything_is_measured(
    series: Series, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "self-comparisons.jsonl").write_text("{}\n")
    monkeypatch.setattr(peers, "made_subject", lambda *_: series.subject)
    monkeypatch.setattr(peers, "_peers", lambda *_: pytest.fail("the peers were measured first"))
    result = CliRunner().invoke(peers.main, ["--work", str(tmp_path)])
    assert result.exit_code == 1
    assert "no series of this version" in result.output
    assert "Move it away" in result.output


def test_a_slowed_backend_waits_before_every_step() -> None:
    steps: list[float] = []
    slowed: Any = Slowed(SimpleNamespace(step=lambda: steps.append(time.perf_counter())))  # type: ignore[arg-type]
    slowed.wait_s = 0.02
    started_s = time.perf_counter()
    slowed.step()
    assert steps[0] - started_s >= 0.02


def test_the_slowed_worker_serves_as_the_bench_s_own(session_run: Any, tmp_path: Path) -> None:
    with WorkerProcess(tmp_path / "worker.log", module="bench.peers.slowed_worker") as worker:
        worker.ask(_load(session_run), Loaded)
        warm_up = worker.ask(WarmUp(calls=5, duration_s=0.0, most_s=10.0), WarmedUp)
        timed = worker.ask(Block(settle_calls=0, calls=3), Timed)
    assert min(timed.compute_s) >= SLOWDOWN * warm_up.later_call_s
    assert np.all(np.array(timed.end_to_end_s) > timed.compute_s)


@pytest.mark.slow
def test_the_quick_form_runs_to_its_last_line(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    command = [sys.executable, "-m", "bench.peers", "--quick", "--work", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.keys() >= _FIVE
    assert told["benchmark_app_latency"] > 0
    assert told["benchmark_app_fps"] > 0
    assert told["aa_total"] + told["slowdowns_total"] + told["contended_comparisons"] == 2
