"""Times in pytest-benchmark's form, read by pytest-benchmark itself."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gate import Verdict, Word
from bench.pytest_benchmark_json import write_pytest_benchmark_json
from bench.results import Trial, TrialResult
from bench.timings import Round
from tests.bench.timings_made_up import timing_from_rounds


def _result(backend: str, samples_s: list[float] | None, word: Word = Word.PASS) -> TrialResult:
    rounds = [
        Round(number=1, compute_s=samples_s[:3], end_to_end_s=samples_s[:3], foreign_cores=0.0, accepted=True),
        Round(number=2, compute_s=[9.0], end_to_end_s=[9.0], foreign_cores=1.0, accepted=False),
        Round(number=3, compute_s=samples_s[3:], end_to_end_s=samples_s[3:], foreign_cores=0.0, accepted=True),
    ] if samples_s else []  # fmt: skip
    timing = timing_from_rounds([rounds], planned_rounds=2)
    return TrialResult(
        trial=Trial(
            run="films",
            variant="fp32",
            artifact="export/fp32.onnx",
            backend=backend,
            precision="fp32",
            batch_size=8,
            threads=2,
        ),
        status="measured",
        margin=0.01,
        margin_set="2026-11-25T00:00:00+00:00",
        mode="full",
        verdict=Verdict(word=word, step="parity", reason="made up"),
        timing=timing if samples_s else None,
        created="2026-11-25T00:00:00+00:00",
        machine={"processor": "made up"},
    )


_SAMPLES_S = [0.011, 0.012, 0.010, 0.013, 0.014, 0.012]


def test_samples_of_quiet_rounds_are_kept_in_their_order_and_what_failed_is_left_out(tmp_path: Path) -> None:
    results = [_result("onnxruntime", _SAMPLES_S), _result("openvino", None, Word.FAIL)]
    write_pytest_benchmark_json(tmp_path / "times.json", results)
    (found,) = json.loads((tmp_path / "times.json").read_text())["benchmarks"]
    assert found["stats"]["data"] == _SAMPLES_S
    assert found["stats"]["median"] == pytest.approx(statistics.median(_SAMPLES_S))
    assert found["stats"]["rounds"] == 6
    assert found["fullname"] == "films/fp32.onnxruntime.b8.t2"
    assert found["extra_info"]["verdict"] == "PASS"
    assert "end to end" in found["extra_info"]["boundary"]


def test_pytest_benchmark_itself_compares_two_files(tmp_path: Path) -> None:
    write_pytest_benchmark_json(tmp_path / "old.json", [_result("onnxruntime", _SAMPLES_S)])
    twice_s = [2 * each for each in _SAMPLES_S]
    write_pytest_benchmark_json(tmp_path / "new.json", [_result("onnxruntime", twice_s)])
    program = Path(sys.executable).with_name("pytest-benchmark")
    shown = subprocess.run(
        [str(program), "compare", "old.json", "new.json", "--columns=median,rounds", "--csv=table.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("fp32.onnxruntime.b8.t2") >= 2
    assert "(2.0" in shown.stdout
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 3
