"""Every variant of one run through the bench: what it takes, what it gives, and what gives it away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bench.many import BenchOutcome, BenchRequest, bench_many
from bench.pair import pair_problems
from bench.results import TrialResult
from export.calibration import Calibration
from export.many import export_many
from export.request import ExportRequest
from harness.core.files import sha256_from_file
from harness.core.passport import Passport
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory
from harness.core.tensorrt_flavour import gpu_driver_present
from harness.core.variants import PRECISIONS, Variant

_HAS_OPENVINO = util.find_spec("openvino") is not None
_NOT_FAILED = {"PASS", "INCONCLUSIVE", "NO VERDICT"}


def _bench(folder: Path, *backends: str, batch_size: int = 2) -> BenchOutcome:
    request = BenchRequest.from_options(
        backends=backends, batch_sizes=(batch_size,), threads=(1,), margin=1.0, mode="untimed", force=True
    )
    return bench_many([RunDirectory(folder)], request, SILENT)


@pytest.fixture(scope="module")
def exported(session_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run in every precision, plain and with uint8 input and probabilities, and as OpenVINO IR."""
    runs_folder = tmp_path_factory.mktemp("variants") / "runs"
    shutil.copytree(session_run.runs_folder, runs_folder)
    folder = runs_folder / session_run.folder.name
    request = ExportRequest(
        precisions=PRECISIONS,
        uint8_input=True,
        probabilities=True,
        calibration=Calibration(count=16),
        openvino=_HAS_OPENVINO,
    )
    (outcome,) = export_many([RunDirectory(folder)], request, SILENT)
    assert outcome.error is None, outcome.error
    return folder


@pytest.fixture(scope="module")
def results(exported: Path) -> list[TrialResult]:
    return _bench(exported).results


def _precise(results: list[TrialResult]) -> list[TrialResult]:
    return [each for each in results if each.status == "measured" and each.trial.precision == "fp32"]


def test_every_variant_is_tried_in_every_backend_that_has_it(results: list[TrialResult]) -> None:
    tried = {(each.trial.form, each.trial.backend) for each in results}
    for precision in PRECISIONS:
        for ends in (False, True):
            name = Variant(precision=precision, uint8_input=ends, probabilities=ends).name
            assert (name, "onnxruntime") in tried
            if _HAS_OPENVINO:
                assert (name, "openvino") in tried


def test_float32_variants_keep_every_answer_whatever_their_ends(results: list[TrialResult]) -> None:
    found = _precise(results)
    assert {each.trial.form for each in found} == {"fp32", "fp32-uint8in-prob"}
    for each in found:
        assert each.verdict is not None
        assert each.verdict.word.value in _NOT_FAILED, each.verdict
        assert each.parity is not None
        assert each.parity.changed_answers == 0
        assert each.parity.max_abs_dp < 1e-4


def test_no_variant_departs_from_what_it_is_asked_for(results: list[TrialResult]) -> None:
    for each in results:
        if each.status == "measured":
            assert each.description is not None
            assert each.description.departures == [], each.trial.identifier


@pytest.mark.skipif(not _HAS_OPENVINO, reason="openvino is not installed")
def test_openvino_says_in_which_types_it_really_computes(results: list[TrialResult]) -> None:
    told = {
        each.trial.form: each.description.precision
        for each in results
        if each.trial.backend == "openvino" and each.description is not None
    }
    assert told["fp32"] == "fp32"
    assert told["bf16"] == "bf16"
    assert "int8" in told["int8"]
    assert "int8" in told["int8-u8s8"]


@pytest.mark.skipif(not _HAS_OPENVINO, reason="openvino is not installed")
def test_the_size_of_an_openvino_model_counts_its_weights(results: list[TrialResult]) -> None:
    sizes = {each.trial.variant: each.artifact_size_bytes for each in results if each.status == "measured"}
    model, onnx_file = sizes["fp32.ir"], sizes["fp32"]
    assert model is not None
    assert onnx_file is not None
    assert 0.9 < model / onnx_file < 1.1


def test_onnx_runtime_is_not_asked_for_the_convolution_it_lacks(results: list[TrialResult]) -> None:
    rows = [each for each in results if (each.trial.backend, each.trial.precision) == ("onnxruntime", "bf16")]
    assert len(rows) == 2
    for each in rows:
        assert each.status == "unavailable"
        assert "bfloat16" in each.reason


@pytest.fixture
def damaged(exported: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy the run with one variant only."""

    def copy(stem: str) -> Path:
        runs_folder = tmp_path / "runs"
        shutil.copytree(exported.parent, runs_folder)
        folder = runs_folder / exported.name
        for path in (folder / "export").iterdir():
            if not path.name.startswith(f"{stem}.onnx"):
                path.unlink()
        return folder

    return copy


def test_a_missing_kernel_is_no_error_of_the_bench(damaged: Callable[[str], Path]) -> None:
    outcome = _bench(damaged("bf16"), "onnxruntime")
    assert [each.status for each in outcome.results] == ["unavailable"]
    assert not outcome.failures


@pytest.mark.skipif(util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed: the extra `rtx`")
def test_a_truncated_engine_fails_even_where_no_gpu_could_run_a_whole_one(copied_run: Callable[[], Any]) -> None:
    folder = Path(copied_run().folder)
    engine = folder / "export" / "fp32.rtx.engine"
    whole = _bench(folder, "tensorrt").results
    engine.write_bytes(engine.read_bytes()[:-100])
    (result,) = _bench(folder, "tensorrt").results
    assert result.verdict is not None
    assert (result.verdict.word.value, result.verdict.step) == ("FAIL", "contract")
    assert engine.name in result.verdict.reason
    if not gpu_driver_present():
        assert [each.status for each in whole] == ["unavailable"]


def _rewrite(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change a model and let its sidecar vouch for the change."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    sidecar = path.with_name(path.name + ".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"sha256": sha256_from_file(path)}))


def _set_constant(name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = (each for each in model.graph.initializer if each.name == name)
        array = np.broadcast_to(np.float32(value), numpy_helper.to_array(tensor).shape)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    return change


def _verdict(folder: Path) -> tuple[str, str, str]:
    (result,) = _bench(folder, "onnxruntime").results
    assert result.verdict is not None, result.reason
    return result.verdict.word.value, result.verdict.step, result.verdict.reason


def test_a_wrong_mean_inside_the_graph_is_found(damaged: Callable[[str], Path]) -> None:
    folder = damaged("fp32-uint8in-prob")
    _rewrite(folder / "export" / "fp32-uint8in-prob.onnx", _set_constant("input_mean", 0.0))
    word, step, reason = _verdict(folder)
    assert (word, step) == ("FAIL", "numeric")
    assert "passport" in reason


def test_answers_that_contradict_the_probabilities_are_found(damaged: Callable[[str], Path]) -> None:
    folder = damaged("fp32-uint8in-prob")

    def least_instead_of_most(model: onnx.ModelProto) -> None:
        (node,) = (each for each in model.graph.node if each.op_type == "ArgMax")
        node.op_type = "ArgMin"

    _rewrite(folder / "export" / "fp32-uint8in-prob.onnx", least_instead_of_most)
    word, step, reason = _verdict(folder)
    assert (word, step) == ("FAIL", "numeric")
    assert "own probabilities" in reason


def test_another_passport_in_file_or_sidecar_is_found(damaged: Callable[[str], Path]) -> None:
    folder = damaged("fp16")
    path = folder / "export" / "fp16.onnx.json"
    content = json.loads(path.read_text())
    content["details"]["passport"]["operating_point"]["threshold"] = 0.123
    path.write_text(json.dumps(content))
    word, step, reason = _verdict(folder)
    assert (word, step) == ("FAIL", "contract")
    assert "operating point" in reason


def test_a_variant_under_another_name_is_found(damaged: Callable[[str], Path]) -> None:
    folder = damaged("fp32-uint8in-prob")
    for suffix in ("", ".json"):
        (folder / "export" / f"fp32-uint8in-prob.onnx{suffix}").rename(folder / "export" / f"fp16.onnx{suffix}")
    word, step, reason = _verdict(folder)
    assert (word, step) == ("FAIL", "contract")
    assert "fp32-uint8in-prob" in reason


def _passport(exported: Path) -> Passport:
    sidecar = json.loads((exported / "export" / "fp32.onnx.json").read_text())
    return Passport.model_validate(sidecar["details"]["passport"])


def test_the_pair_must_be_answered_alike_in_every_row_and_never_by_nan(exported: Path) -> None:
    passport, variant = _passport(exported), Variant(precision="fp32")
    right_bc = np.array([passport.pair.logits] * 2, dtype=np.float32)
    assert pair_problems(passport, variant, right_bc) == []
    for wrong in (np.nan, right_bc[0, 0] + 5):
        wrong_bc = right_bc.copy()
        wrong_bc[1, 0] = wrong
        assert pair_problems(passport, variant, wrong_bc)
