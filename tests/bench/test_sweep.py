"""Trials as points of a sweep, and the ceiling that each is held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.backends.interface import Description
from bench.gate import Verdict, Word
from bench.report import write_report
from bench.report_time import Economics
from bench.results import Trial, TrialResult
from bench.sweep import ceilings_of, device_of_backend, sweep_points
from harness.core.runs import RunDirectory
from tests.bench.timings_made_up import timing_of

_MACHINE: dict[str, Any] = {"processor": "made up", "cores": 2}


def _ceiling(flop_per_s: float, **changes: Any) -> dict[str, Any]:
    """Return a stored ceiling whose one convolution of a second reached so much in every precision."""
    rates = [
        {"operation": "convolution", "precision": name, "flop": flop_per_s, "duration_s": [1.0, 1.1]}
        for name in ("fp32", "int8")
    ]
    made = {"device": "cpu", "threads": 2, "device_name": "made up", "library": "openvino", "version": "1", "notes": []}
    made |= {"rates": rates, "memory": {"counted_bytes": 10**9, "duration_s": [0.1]}, "foreign_cores": 0.0}
    return {**made, "created": "", "machine": _MACHINE, **changes}


def _result(variant: str, call_s: float, batch_size: int = 1) -> TrialResult:
    backend = "pytorch" if variant == "eager" else "onnxruntime"
    artifact = "checkpoint.safetensors" if variant == "eager" else f"export/{variant}.onnx"
    return TrialResult(
        trial=Trial(
            run="films",
            variant=variant,
            artifact=artifact,
            backend=backend,
            precision="fp32",
            batch_size=batch_size,
            threads=2,
        ),
        status="measured",
        margin=0.01,
        margin_set="",
        mode="full",
        verdict=Verdict(word=Word.PASS, step="parity", reason=""),
        description=Description(runtime="r", version="1", device="CPU", precision="fp32", threads=2, departures=[]),
        timing=timing_of([[call_s] * 6] * 6, baseline_s=0.05),
        created="",
        machine=_MACHINE,
    )


@pytest.fixture
def run(session_run: Any) -> RunDirectory:
    return RunDirectory(session_run.folder)


def _stored(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "ceiling"
    folder.mkdir()
    (folder / "cpu.t2.json").write_text(json.dumps(_ceiling(1e12, **changes)))
    return tmp_path


@pytest.mark.parametrize(
    ("backend", "device"),
    [("pytorch", "cpu"), ("openvino-throughput", "cpu"), ("pytorch-cuda", "cuda"), ("tensorrt-graph", "cuda")],
)
def test_a_backend_is_held_to_the_ceiling_of_its_device(backend: str, device: str) -> None:
    assert device_of_backend(backend) == device


def test_a_trial_is_a_point_with_its_share_of_the_ceiling(run: RunDirectory, tmp_path: Path) -> None:
    from harness.core.onnx_flops import flops_from_onnx

    runs_folder = _stored(tmp_path)
    results = [_result("eager", 0.05), _result("fp32", 0.01), _result("fp32", 0.04, batch_size=8)]
    ceilings = ceilings_of(runs_folder, results)
    assert len(ceilings) == 1
    points = sweep_points(run, results, ceilings)
    flop = flops_from_onnx(run.export_folder / "fp32.onnx").effective_flop
    assert [point.images_per_s for point in points] == pytest.approx([20.0, 100.0, 200.0])
    assert [point.share_of_ceiling for point in points] == pytest.approx(
        [each * flop / 1e12 for each in (20, 100, 200)]
    )
    assert [point.compute_floor_s for point in points] == pytest.approx([flop / 1e12, flop / 1e12, 8 * flop / 1e12])
    # Paired with eager's block of the same round, 0.05 s; eager is not paired with itself.
    assert [point.speed_up for point in points] == [None, pytest.approx(5.0), pytest.approx(1.25)]
    assert points[0].build_s is None
    assert points[1].build_s is not None
    assert points[1].memory_bytes == 100_000_000


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": {"processor": "another"}},
        {"machine": {**_MACHINE, "gpus": ["NVIDIA L4"]}},
        {"threads": 1},
        {"device": "cuda"},
    ],
)
def test_a_ceiling_of_another_machine_or_setting_is_none(
    run: RunDirectory, tmp_path: Path, changes: dict[str, Any]
) -> None:
    results = [_result("fp32", 0.01)]
    ceilings = ceilings_of(_stored(tmp_path, **changes), results)
    (point,) = sweep_points(run, results, ceilings)
    assert point.share_of_ceiling is None
    assert point.images_per_s == pytest.approx(100.0)


def test_the_report_has_sweep_cost_ceiling_and_noise(copied_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = copied_run()
    folder = Path(made.folder)
    (folder / "bench").mkdir(exist_ok=True)
    _stored(folder.parent)
    results = [_result("eager", 0.05), _result("fp32", 0.01), _result("fp32", 0.04, batch_size=8)]
    results[1] = results[1].model_copy(update={"twin": timing_of([[0.0102] * 6] * 6)})
    # Verdicts are judged again by other tests; here the times of the records count.
    monkeypatch.setattr("bench.report_records.recomputed", lambda _reference, stored: stored)
    monkeypatch.setattr("bench.report_records.flips_of_result", lambda *_: [])
    monkeypatch.setattr("bench.report_records.is_stale", lambda *_: False)
    for each in results:
        trial = each.trial.model_copy(update={"run": folder.name})
        path = folder / "bench" / f"{trial.identifier}.json"
        path.write_text(each.model_copy(update={"trial": trial}).model_dump_json())
    economics = Economics(price_per_hour=3.6, images_per_day=1000.0)
    write_report(folder.parent, [RunDirectory(folder)], None, economics)
    text = (folder.parent / "report" / "report.md").read_text()
    assert "fp32.onnxruntime.b1.t2 against itself 1.020 [1.020, 1.020]" in text
    assert "a difference below 2.0 % is none" in text
    assert "| fp32 | onnxruntime | 2 | 1 | PASS | 10.00 | 100.0 |" in text
    assert "| 10 |" in text  # 3.6 an hour are 0.001 a second, 100 images of it: 10 for a million.
    assert "1000 GFLOP/s" in text
    content = json.loads((folder.parent / "report" / "report.json").read_text())
    points = {(each["artifact"], each["batch_size"]): each for each in content["runs"][0]["sweep"]}
    assert points["fp32", 1]["cost_per_million"] == pytest.approx(10.0)
    assert points["fp32", 1]["break_even"]["images"] > 0
    assert [key for key, each in points.items() if each["knee"]] == [("fp32", 8)]
    (trial,) = [each for each in content["runs"][0]["trials"] if each["trial"]["batch_size"] == 8]
    assert trial["speed_up_over_eager"]["estimate"] == pytest.approx(1.25)
