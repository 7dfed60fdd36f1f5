"""What `harness bench` finds in files and their sidecars before any runtime is asked."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.keeping import kept_result
from bench.many import BenchRequest
from bench.proving import Terms
from bench.results import Trial, TrialResult
from bench.sides import _made_again
from bench.trials import (
    Reference,
    checked_artifact,
    deployed_sha256,
    engine_problems,
    is_stale,
    reference_of_run,
    unavailability,
)
from harness.core.artifacts import Kind, Sidecar, write_artifact
from harness.core.errors import UsageError
from harness.core.files import write_text_atomically
from harness.core.runs import RunDirectory

_TRUE: dict[str, Any] = {"flavour": "rtx", "flavour_version": "1.7.1.116", "targets": ["SM86", "SM89"]}
_PLAN = (b"vtrt" + bytes(12) + struct.pack("<Q", 100) + bytes([1, 7, 1, 116]) + b"vtrt" + struct.pack("<I", 12)).ljust(
    100, b"\0"
)


def _engine(path: Path, content: bytes, **details: Any) -> Sidecar:
    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    return write_artifact(path, write, kind=Kind.ENGINE, parents={}, details=details)


def test_an_engine_that_is_what_its_sidecar_says_has_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "fp32.rtx.engine"
    assert engine_problems(path, _engine(path, _PLAN, **_TRUE)) == []
    path = tmp_path / "fp32.tensorrt.engine"
    assert engine_problems(path, _engine(path, b"plan", flavour="tensorrt", flavour_version="11.4.0")) == []


@pytest.mark.parametrize(
    ("name", "content", "details", "words"),
    [
        ("fp32.rtx.engine", _PLAN, {"targets": ["SM86"]}, "The sidecar says targets ['SM86']"),
        ("fp32.rtx.engine", _PLAN, {"flavour_version": "1.6"}, "The sidecar says TensorRT-RTX 1.6"),
        ("fp32.rtx.engine", _PLAN[:-1], {}, "truncated"),
        ("fp32.rtx.engine", b"\x08\x0a\x12\x07pytorch", {}, "is an ONNX file"),
        ("fp32.tensorrt.engine", _PLAN, {}, "by its sidecar an engine of rtx"),
        ("fp32.tensorrt.engine", _PLAN, {"flavour": "tensorrt"}, "an engine of TensorRT-RTX"),
        ("fp32.engine", _PLAN, {}, "not named as an engine"),
    ],
)
def test_an_engine_that_is_not_what_it_is_said_to_be_breaks_the_contract(
    tmp_path: Path, name: str, content: bytes, details: dict[str, Any], words: str
) -> None:
    path = tmp_path / name
    (problem,) = engine_problems(path, _engine(path, content, **_TRUE | details))

    assert words in problem


def _write(path: Path, text: str, kind: Kind, **details: Any) -> Sidecar:
    return write_artifact(
        path, lambda place: write_text_atomically(place, text), kind=kind, parents={}, details=details
    )


def _result(trial: Trial, **values: Any) -> TrialResult:
    common = {"margin": 0.01, "margin_set": "now", "mode": "quick", "created": "now", "machine": {}}
    return TrialResult(trial=trial, **({"status": "measured"} | common | values))


@pytest.fixture
def reference(copied_run: Callable[[], Any]) -> Reference:
    return reference_of_run(RunDirectory(copied_run().folder))


def test_an_openvino_model_is_the_one_that_was_measured_while_graph_and_weights_are(reference: Reference) -> None:
    xml = reference.run.export_folder / "fp32.ir.xml"

    def made(weights: str) -> Sidecar:
        found = _write(xml.with_suffix(".bin"), weights, Kind.OPENVINO_WEIGHTS)
        return _write(xml, "<net/>", Kind.OPENVINO_MODEL, weights_sha256=found.sha256)

    trial = Trial(
        run=reference.run.name,
        variant="fp32.ir",
        artifact="export/fp32.ir.xml",
        backend="openvino",
        precision="fp32",
        batch_size=1,
        threads=1,
    )
    result = _result(trial, artifact_sha256=deployed_sha256(made("weights")))
    assert not is_stale(reference.run, result)
    assert not _made_again(reference, result, there=True)
    made("other weights")
    assert is_stale(reference.run, result)
    assert _made_again(reference, result, there=True)


@pytest.mark.parametrize("precision", ["int8", "int8-u8s8"])
@pytest.mark.parametrize("name", ["{}.onnx", "{}.ir.xml", "{}.rtx.engine"])
def test_a_quantised_file_that_is_silent_about_its_calibration_breaks_the_contract(
    reference: Reference, precision: str, name: str
) -> None:
    path = reference.run.export_folder / name.format(precision)
    kinds = {".onnx": Kind.ONNX_MODEL, ".xml": Kind.OPENVINO_MODEL, ".engine": Kind.ENGINE}
    _write(path, "a model", kinds[path.suffix], precision=precision, variant=precision)
    trial = Trial(
        run=reference.run.name,
        variant=precision,
        artifact=str(path.relative_to(reference.run.folder)),
        backend="onnxruntime",
        precision=precision,
        form=precision,
        batch_size=1,
        threads=1,
    )
    _, problems = checked_artifact(reference, trial)
    assert f"{path.name} does not say which images it was calibrated on" in problems


def test_a_file_damaged_since_it_could_not_run_is_measured_again_and_not_kept(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.trials.available_backends", lambda: {"onnxruntime": "it is not there"})
    trial = Trial(
        run=reference.run.name,
        variant="fp32",
        artifact="export/fp32.onnx",
        backend="onnxruntime",
        precision="fp32",
        batch_size=1,
        threads=1,
    )
    result = _result(trial, status="unavailable", reason=unavailability(trial))
    path = reference.run.bench_folder / f"{trial.identifier}.json"
    write_text_atomically(path, result.model_dump_json())
    terms = Terms(margin=0.01, margin_set="", splits="test", mode="quick", machine={})
    assert kept_result(reference, trial, terms) == result
    onnx = reference.run.export_folder / "fp32.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-1])
    assert kept_result(reference, trial, terms) is None


@pytest.mark.parametrize("margin", [float("nan"), 0.0, 1e-15, -1.0, 101.0, float("inf")])
def test_a_margin_that_is_no_loss_is_wrong_usage(margin: float) -> None:
    with pytest.raises(UsageError, match="The margin is"):
        BenchRequest.from_options(backends=(), batch_sizes=(), threads=(1,), margin=margin, mode="quick", force=False)
