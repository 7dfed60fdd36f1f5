"""The ONNX file of the session's run: what it is, what it answers, and when it is made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from export.engine_options import BatchProfile
from export.many import export_many
from export.onnx_export import base_model
from export.request import ExportOutcome, ExportRequest
from harness.core.artifacts import Kind, verified_sidecar
from harness.core.cases import case_named
from harness.core.contract import Contract
from harness.core.errors import ArtifactError, DataError, HarnessError
from harness.core.models import model_from_checkpoint
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory

_REQUEST = ExportRequest()
_FORCED = ExportRequest(force=True)


def _export(folder: Path, request: ExportRequest = _REQUEST) -> ExportOutcome:
    (outcome,) = export_many([RunDirectory(folder)], request, SILENT)
    return outcome


def _error(folder: Path) -> HarnessError:
    error = _export(folder).error
    assert error is not None
    return error


@pytest.fixture
def folder(copied_run: Callable[[], Any]) -> Path:
    return Path(copied_run().folder)


@pytest.fixture(scope="module")
def onnx_path(session_run: Any) -> Path:
    return Path(session_run.folder / "export" / "fp32.onnx")


def test_the_file_is_valid_has_opset_20_and_a_free_batch(onnx_path: Path) -> None:
    onnx.checker.check_model(str(onnx_path), full_check=True)
    model = onnx.load(onnx_path)
    assert {each.domain: each.version for each in model.opset_import}[""] == 20
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    dims = image.type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [dim.dim_value for dim in dims[1:]] == [3, 64, 64]
    assert logits.type.tensor_type.shape.dim[0].dim_param == dims[0].dim_param
    assert logits.type.tensor_type.shape.dim[1].dim_value == 3


def test_the_contract_is_inside_the_file(session_run: Any, onnx_path: Path) -> None:
    metadata = {each.key: each.value for each in onnx.load(onnx_path).metadata_props}
    contract = RunDirectory(session_run.folder).read_record().contract
    assert contract.metadata().items() <= metadata.items()
    assert json.loads(metadata["cxr_harness.class_names"]) == ["covid", "normal", "pneumonia"]
    checkpoint = verified_sidecar(session_run.folder / "checkpoint.safetensors", kind=Kind.CHECKPOINT, remedy="")
    assert metadata["cxr_harness.checkpoint_sha256"] == checkpoint.sha256


def test_no_path_of_this_machine_is_in_the_file(onnx_path: Path) -> None:
    content = onnx_path.read_bytes()
    for secret in (str(Path(__file__).parents[2]).encode(), b"site-packages", b".venv/", b"torchvision/", b'File "'):
        assert secret not in content, secret


def test_the_same_checkpoint_gives_the_same_graph_and_weights_and_prints_nothing(
    session_run: Any, onnx_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(session_run.folder)
    again = onnx_ir.to_proto(base_model(run.checkpoint, run.read_record().contract)).graph
    assert again.SerializeToString(deterministic=True) == onnx.load(onnx_path).graph.SerializeToString(
        deterministic=True
    )
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_file_answers_as_torch_does_at_any_batch(session_run: Any, onnx_path: Path, batch_size: int) -> None:
    network = model_from_checkpoint(case_named("d2-resnet18-ce"), session_run.folder / "checkpoint.safetensors")
    images_bchw = np.random.default_rng(batch_size).normal(size=(batch_size, 3, 64, 64)).astype(np.float32)
    with torch.inference_mode():
        expected_bc = network(torch.from_numpy(images_bchw)).numpy()
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    (logits_bc,) = session.run(None, {"image": images_bchw})
    assert logits_bc.shape == (batch_size, 3)
    np.testing.assert_allclose(logits_bc, expected_bc, rtol=1e-4, atol=1e-4)


def test_the_sidecar_tells_what_the_file_is_and_what_it_was_made_from(session_run: Any, onnx_path: Path) -> None:
    sidecar = verified_sidecar(onnx_path, kind=Kind.ONNX_MODEL, remedy="")
    checkpoint = verified_sidecar(session_run.folder / "checkpoint.safetensors", kind=Kind.CHECKPOINT, remedy="")
    assert sidecar.parents == {"checkpoint": checkpoint.sha256}
    assert sidecar.size_bytes == onnx_path.stat().st_size
    assert sidecar.details["parameters"] == 11_178_051
    assert (sidecar.details["precision"], sidecar.details["opset"]) == ("fp32", 20)
    assert (
        sidecar.versions["torch"] == torch.__version__.split("+")[0] or sidecar.versions["torch"] == torch.__version__
    )


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    paths = [*(folder / "export").iterdir(), folder / "golden.npz"]
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def test_what_is_up_to_date_is_left_alone_and_force_makes_it_again(folder: Path) -> None:
    before, content = _state(folder), (folder / "export" / "fp32.onnx").read_bytes()
    outcome = _export(folder)
    assert outcome.error is None
    assert [made.duration_s for made in outcome.artifacts] == [None]
    assert _state(folder) == before
    forced = _export(folder, _FORCED)
    assert forced.artifacts[0].duration_s is not None
    after = _state(folder)
    assert after["fp32.onnx"] != before["fp32.onnx"]
    assert after["golden.npz"] == before["golden.npz"]
    assert (folder / "export" / "fp32.onnx").read_bytes() == content


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("fp32.onnx", _flip), ("fp32.onnx", Path.unlink), ("fp32.onnx.json", _cut)],
    ids=["one byte", "gone", "sidecar cut"],
)
def test_a_damaged_onnx_file_or_sidecar_is_made_again(folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    path = folder / "export" / "fp32.onnx"
    content = path.read_bytes()
    damage(folder / "export" / name)
    outcome = _export(folder)
    assert outcome.error is None
    assert outcome.artifacts[0].duration_s is not None
    assert path.read_bytes() == content
    assert verified_sidecar(path, kind=Kind.ONNX_MODEL, remedy="").sha256


@pytest.mark.parametrize("versions", [{"onnx": "1.0"}, {"a-package-that-is-not-here": "1.0"}])
def test_an_onnx_file_of_other_versions_is_made_again(folder: Path, versions: dict[str, str]) -> None:
    sidecar = folder / "export" / "fp32.onnx.json"
    content = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(content | {"versions": content["versions"] | versions}))
    outcome = _export(folder)
    assert outcome.error is None
    assert outcome.artifacts[0].duration_s is not None


def test_a_checkpoint_that_is_not_its_sidecars_is_refused(folder: Path) -> None:
    before = _state(folder)
    _flip(folder / "checkpoint.safetensors")
    error = _error(folder)
    assert isinstance(error, ArtifactError)
    assert "checkpoint.safetensors" in error.message
    assert "harness train d2-resnet18-ce" in error.hint
    assert _state(folder) == before


def test_a_checkpoint_of_another_case_is_refused(folder: Path) -> None:
    # The same network, classes and size: only the case differs.
    sidecar = folder / "checkpoint.safetensors.json"
    content = json.loads(sidecar.read_text())
    content["contract"]["case"] = "d2-resnet18-focal"
    sidecar.write_text(json.dumps(content))
    error = _error(folder)
    assert isinstance(error, ArtifactError)
    assert "another case" in error.message


def test_a_checkpoint_of_another_run_of_the_same_case_is_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    from harness.core.files import sha256_from_file

    checkpoint, sidecar = folder / "checkpoint.safetensors", folder / "checkpoint.safetensors.json"
    state = load_file(checkpoint)
    save_file({name: -tensor for name, tensor in state.items()}, checkpoint)
    content = json.loads(sidecar.read_text())
    content["details"]["identity"]["seed"] = 1
    sidecar.write_text(json.dumps(content | {"sha256": sha256_from_file(checkpoint)}))
    assert isinstance(_export(folder).error, ArtifactError)


def test_an_unfinished_run_is_refused_and_the_others_are_exported(copied_run: Callable[[], Any]) -> None:
    made = copied_run()
    other = made.runs_folder / "unfinished"
    other.mkdir()
    record = json.loads((made.folder / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(record | {"status": "training", "name": "unfinished"}))
    outcomes = export_many([RunDirectory(other), RunDirectory(made.folder)], _REQUEST, SILENT)
    assert outcomes[0].error is not None
    assert "has not finished training" in outcomes[0].error.message
    assert outcomes[0].rows()[-1][2] == "FAILED"
    assert outcomes[1].error is None


def test_a_missing_evaluation_set_and_golden_are_made_again_from_the_films(copied_run: Callable[[], Any]) -> None:
    made = copied_run()
    golden = (made.folder / "golden.npz").read_bytes()
    (images,) = made.runs_folder.glob("evaluation-sets/*/images.npy")
    pixels = images.read_bytes()
    shutil.rmtree(made.runs_folder / "evaluation-sets")
    (made.folder / "golden.npz").unlink()
    assert _export(made.folder).error is None
    assert images.read_bytes() == pixels
    with np.load(made.folder / "golden.npz") as again:
        (made.folder / "old.npz").write_bytes(golden)
        with np.load(made.folder / "old.npz") as old:
            assert (again["logits_bc"] == old["logits_bc"]).all()


def _point_at(run_folder: Path, manifest: Path) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps(record | {"manifest": str(manifest)}))


def test_a_missing_evaluation_set_without_its_data_set_is_an_error_that_names_it(
    copied_run: Callable[[], Any], tmp_path: Path
) -> None:
    made = copied_run()
    shutil.rmtree(made.runs_folder / "evaluation-sets")
    gone = tmp_path / "gone" / "manifest.csv"
    _point_at(made.folder, gone)
    error = _error(made.folder)
    assert isinstance(error, (ArtifactError, DataError))
    assert str(gone) in error.message


def test_a_missing_evaluation_set_is_not_made_from_another_data_set(copied_run: Callable[[], Any]) -> None:
    made = copied_run()
    shutil.rmtree(made.runs_folder / "evaluation-sets")
    _point_at(made.folder, made.data_folder / "dataset1" / "manifest.csv")
    error = _error(made.folder)
    assert isinstance(error, ArtifactError)
    assert "no longer the one" in error.message


def test_an_engine_is_made_from_the_onnx_file_and_left_alone_when_up_to_date(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra `rtx`")
    request = ExportRequest(engine=True, flavour="rtx", profile=BatchProfile(minimum=1, optimum=8, maximum=8))
    engine = folder / "export" / "fp32.rtx.engine"
    sidecar = verified_sidecar(engine, kind=Kind.ENGINE, remedy="")
    onnx_model = verified_sidecar(folder / "export" / "fp32.onnx", kind=Kind.ONNX_MODEL, remedy="")
    assert sidecar.parents == {"onnx": onnx_model.sha256, "checkpoint": onnx_model.parents["checkpoint"]}
    assert sidecar.contract == Contract.model_validate(json.loads((folder / "run.json").read_text())["contract"])
    assert sidecar.details["profile"] == [1, 8, 8]
    before = engine.stat().st_mtime_ns
    assert [made.duration_s for made in _export(folder, request).artifacts] == [None, None]
    assert engine.stat().st_mtime_ns == before
    larger = replace(request, profile=BatchProfile(minimum=1, optimum=8, maximum=16))
    made = _export(folder, larger).artifacts
    assert made[0].duration_s is None
    assert made[1].duration_s is not None
    assert verified_sidecar(engine, kind=Kind.ENGINE, remedy="").details["profile"] == [1, 8, 16]
