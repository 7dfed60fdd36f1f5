"""What our own code costs beside the models: the gate, its intervals, a report of many trials."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.evidence import Evidence
from bench.gate import judged
from bench.many import BenchRequest, bench_many
from bench.report import write_report
from bench.results import answers_path, results_from_folder
from bench.statistics import macro_f1_loss_interval, tango_interval
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory

pytestmark = pytest.mark.perf
_IMAGES = 10_000
_TRIALS = 100


def _evidence() -> Evidence:
    """Ten thousand images of three classes; the candidate answers 20 of them otherwise."""
    random = np.random.default_rng(0)
    labels_b = np.arange(_IMAGES) % 3
    golden_bc = (4 * np.eye(3)[labels_b] + random.standard_normal((_IMAGES, 3))).astype(np.float32)
    candidate_bc = golden_bc + random.normal(0, 1e-3, golden_bc.shape).astype(np.float32)
    candidate_bc[:20] = np.roll(candidate_bc[:20], 1, axis=1)
    return Evidence(
        class_names=("covid", "normal", "pneumonia"),
        label_mode="multiclass",
        precision="fp16",
        margin=0.01,
        contract_problems=(),
        departures=(),
        labels_b=labels_b,
        golden_bc=golden_bc,
        candidate_bc=candidate_bc,
        reference_labels_b=labels_b,
        reference_logits_bc=golden_bc,
    )


def test_the_gate_on_ten_thousand_images(benchmark: Any) -> None:
    benchmark.group = f"judging, {_IMAGES} images"
    _, parity = benchmark(judged, _evidence())
    assert parity.images == _IMAGES


def test_the_interval_of_the_loss(benchmark: Any) -> None:
    benchmark.group = f"judging, {_IMAGES} images"
    low, high = benchmark(tango_interval, 30, 20, _IMAGES)
    assert low < 0.001 < high


def test_the_interval_of_the_loss_of_macro_f1(benchmark: Any) -> None:
    benchmark.group = f"judging, {_IMAGES} images"
    evidence = _evidence()
    answers_b = [each.argmax(axis=1) for each in (evidence.golden_bc, evidence.candidate_bc)]
    low, high = benchmark(macro_f1_loss_interval, evidence.labels_b, *answers_b, 3)
    assert low < high


@pytest.fixture(scope="module")
def many_trials(session_run: Any, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run with one trial that was really measured, and its record again under other numbers of threads."""
    runs_folder: Path = tmp_path_factory.mktemp("many-trials") / "runs"
    shutil.copytree(session_run.runs_folder, runs_folder)
    run = RunDirectory(runs_folder / session_run.folder.name)
    request = BenchRequest.from_options(
        backends=("onnxruntime",), batch_sizes=(1,), threads=(1,), margin=1.0, mode="quick", force=False
    )
    bench_many([run], request, SILENT)
    (measured,) = results_from_folder(run.bench_folder)
    for threads in range(2, _TRIALS + 1):
        trial = measured.trial.model_copy(update={"threads": threads})
        shutil.copy(answers_path(run, measured.trial), answers_path(run, trial))
        record = measured.model_copy(update={"trial": trial})
        (run.bench_folder / f"{trial.identifier}.json").write_text(record.model_dump_json(), encoding="utf-8")
    return run


def test_a_report_of_a_hundred_trials(benchmark: Any, many_trials: RunDirectory) -> None:
    benchmark.group = f"a report of {_TRIALS} trials"
    runs_folder = many_trials.folder.parent
    paths = benchmark.pedantic(write_report, (runs_folder, [many_trials]), rounds=3)
    assert len((runs_folder / "report" / "report.csv").read_text().splitlines()) == _TRIALS + 1
    assert len(paths) == 3
