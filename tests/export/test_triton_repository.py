"""The Triton repository of a run: every config.pbtxt is read by Triton's own schema and held to its model file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format

from export import folders, triton_repository
from export.engine_options import BatchProfile
from export.making import Maker
from export.many import export_many
from export.request import ExportOutcome, ExportRequest, MadeArtifact
from export.triton_config import EnumValue, ServedModel, TritonBackend, text_from_fields
from export.triton_repository import TritonModels, served_name
from harness.core.artifacts import Kind, Sidecar, verified_sidecar, write_artifact
from harness.core.errors import ArtifactError
from harness.core.files import sha256_from_file
from harness.core.passport import Passport
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory, check_run_name
from harness.core.variants import Precision, Variant

_HAS_OPENVINO = util.find_spec("openvino") is not None
_REQUEST = ExportRequest(
    precisions=("fp32", "bf16"), uint8_input=True, probabilities=True, openvino=_HAS_OPENVINO, triton=True
)
_CLASSES = ["covid", "normal", "pneumonia"]


@cache
def _schema() -> Any:
    """Load Triton's schema from its client's package, whose other modules need gRPC."""
    package = util.find_spec("tritonclient")
    assert package is not None, "tritonclient is part of the extra `test`"
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _parsed(text: str) -> Any:
    return text_format.Parse(text, _schema().ModelConfig())  # Raises on fields and values that the schema lacks.


def _config(folder: Path) -> Any:
    return _parsed((folder / "config.pbtxt").read_text())


def _type_name(tensor: Any) -> str:
    return str(_schema().DataType.Name(tensor.data_type))


# --- the text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["plain", '"quoted" \\ back', "line\nbreak\ttab\0nul", "ü胸", "\x7f", "'", "\\001", "7\x017"]
)
def test_any_text_is_read_back_as_it_was(text: str) -> None:
    fields = {"name": text, "parameters": [{"key": text, "value": {"string_value": text}}]}
    config = _parsed(text_from_fields(fields))
    assert config.name == text
    assert config.parameters[text].string_value == text


def test_lists_messages_words_and_empty_lists_are_read_back_as_they_were() -> None:
    output = {"name": "answer", "data_type": EnumValue("TYPE_INT64"), "dims": [1], "reshape": {"shape": []}}
    config = _parsed(text_from_fields({"max_batch_size": 4, "output": [output, output]}))
    assert config.max_batch_size == 4
    assert [list(each.dims) for each in config.output] == [[1], [1]]
    assert [_type_name(each) for each in config.output] == ["TYPE_INT64", "TYPE_INT64"]
    assert config.output[0].HasField("reshape")
    assert list(config.output[0].reshape.shape) == []


@pytest.mark.parametrize("fields", [{"maximum_batch": 4}, {"max_batch_size": "four"}])
def test_what_the_schema_does_not_have_fails_these_tests(fields: dict[str, Any]) -> None:
    with pytest.raises(text_format.ParseError):
        _parsed(text_from_fields(fields))


@pytest.mark.parametrize("name", ["d2-resnet18-ce", "A.b_c-1", "x" * 100])
def test_a_plain_run_name_is_served_under_that_name(name: str) -> None:
    assert served_name(name) == name


@pytest.mark.parametrize("name", ["my run", "a..b", ".hidden", "ü", "x" * 255, "a#b?c%20", "-dash", "\udcff", "a\nb"])
def test_other_characters_are_replaced_and_no_two_names_become_one(name: str) -> None:
    made = served_name(name)
    assert made.isascii()
    assert made.replace("-", "").replace("_", "").isalnum()
    assert len(made) <= 100
    assert made != served_name(name + "x")
    assert len({served_name("a b"), served_name("a_b"), served_name("a  b")}) == 3


def test_no_run_can_be_named_like_the_repository() -> None:
    with pytest.raises(Exception, match="all runs share"):
        check_run_name("triton")


# --- what is written of a real run --------------------------------------------------------------------------------


def _export(folder: Path, request: ExportRequest = _REQUEST) -> ExportOutcome:
    (outcome,) = export_many([RunDirectory(folder)], request, SILENT)
    return outcome


def _served(outcome: ExportOutcome) -> list[MadeArtifact]:
    return [made for made in outcome.artifacts if made.path.parent.name == "triton"]


@pytest.fixture(scope="module")
def exported(session_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportOutcome]:
    """A copy of the session's run, exported with --triton; and what the export told."""
    runs_folder = tmp_path_factory.mktemp("triton") / "runs"
    shutil.copytree(session_run.runs_folder, runs_folder)
    folder = runs_folder / session_run.folder.name
    outcome = _export(folder)
    assert outcome.error is None, outcome.error
    return folder, outcome


@pytest.fixture
def folder(exported: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(exported[0].parent, tmp_path / "runs")
    return tmp_path / "runs" / exported[0].name


def _repository(folder: Path) -> Path:
    return folder.parent / "triton"


def test_the_repository_holds_a_model_per_variant_and_back_end_and_nothing_else(exported: tuple[Path, Any]) -> None:
    variants = {"onnxruntime": ["fp32", "fp32-uint8in-prob"]}
    if _HAS_OPENVINO:
        variants["openvino"] = ["fp32", "fp32-uint8in-prob", "bf16", "bf16-uint8in-prob"]
    expected = {f"d2-resnet18-ce.{name}.{backend}" for backend, names in variants.items() for name in names}
    repository = _repository(exported[0])
    assert {path.name for path in repository.iterdir()} == expected
    assert not list(exported[0].parent.glob(".triton*"))
    for path in repository.iterdir():
        model = {"onnxruntime": ["model.onnx"], "openvino": ["model.bin", "model.xml"]}[path.suffix[1:]]
        assert sorted(each.name for each in path.iterdir()) == ["1", "config.pbtxt", "config.pbtxt.json", "labels.txt"]
        assert sorted(each.name for each in (path / "1").iterdir()) == model


def _onnx_interface(path: Path) -> dict[str, tuple[str, list[int]]]:
    names = {"tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8", "tensor(int64)": "TYPE_INT64"}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    tensors = [*session.get_inputs(), *session.get_outputs()]
    return {each.name: (names[each.type], [-1, *each.shape[1:]]) for each in tensors}


def _openvino_interface(path: Path) -> dict[str, tuple[str, list[int]]]:
    import openvino

    names = {"f32": "TYPE_FP32", "u8": "TYPE_UINT8", "i64": "TYPE_INT64"}
    model = openvino.Core().read_model(path)
    found = {}
    for tensor in [*model.inputs, *model.outputs]:
        dims = [-1 if each.is_dynamic else each.get_length() for each in tensor.get_partial_shape()]
        found[tensor.get_any_name()] = (names[tensor.get_element_type().get_type_name()], dims)
    return found


def test_names_types_and_dims_are_those_of_the_model_file(exported: tuple[Path, Any]) -> None:
    for path in _repository(exported[0]).iterdir():
        config = _config(path)
        assert config.name == path.name
        assert config.backend == path.suffix[1:]
        batched = config.backend == "onnxruntime"
        assert config.max_batch_size == (32 if batched else 0)
        assert config.HasField("dynamic_batching") == batched
        told = {}
        for tensor in [*config.input, *config.output]:
            dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
            assert len(tensor.dims) > 0
            told[tensor.name] = (_type_name(tensor), [-1, *dims] if batched else dims)
        read = _onnx_interface if batched else _openvino_interface
        assert told == read(path / "1" / ("model.onnx" if batched else "model.xml"))


def test_the_answer_is_served_as_a_column_and_pixels_as_nhwc(exported: tuple[Path, Any]) -> None:
    repository = _repository(exported[0])
    config = _config(repository / "d2-resnet18-ce.fp32-uint8in-prob.onnxruntime")
    assert config.input[0].format == _schema().ModelInput.FORMAT_NHWC
    assert [(each.name, list(each.dims)) for each in config.output] == [("probabilities", [3]), ("answer", [1])]
    assert config.output[1].HasField("reshape")
    plain = _config(repository / "d2-resnet18-ce.fp32.onnxruntime")
    assert plain.input[0].format == _schema().ModelInput.FORMAT_NCHW


def test_labels_are_the_classes_and_belong_to_the_output_with_scores(exported: tuple[Path, Any]) -> None:
    for path in _repository(exported[0]).iterdir():
        assert (path / "labels.txt").read_text().splitlines() == _CLASSES
        labelled = [each.name for each in _config(path).output if each.label_filename == "labels.txt"]
        assert labelled == ["probabilities" if "prob" in path.name else "logits"]


def test_the_files_are_the_runs_own_by_hash_and_take_no_second_place_on_the_disk(exported: tuple[Path, Any]) -> None:
    folder = exported[0]
    for path in _repository(folder).iterdir():
        _, variant, backend = path.name.split(".")
        stem = {"onnxruntime": f"{variant}.onnx", "openvino": f"{variant}.ir.xml"}[backend]
        for served in (path / "1").iterdir():
            own = (folder / "export" / stem).with_suffix(served.suffix)
            assert served.samefile(own)
            assert sha256_from_file(served) == sha256_from_file(own)


def test_the_parameters_tell_the_operator_what_the_model_is(exported: tuple[Path, Any]) -> None:
    folder = exported[0]
    checkpoint = verified_sidecar(folder / "checkpoint.safetensors", kind=Kind.CHECKPOINT, remedy="")
    for path in _repository(folder).iterdir():
        parameters = {key: value.string_value for key, value in _config(path).parameters.items()}
        assert parameters["cxr_harness.case"] == "d2-resnet18-ce"
        assert parameters["cxr_harness.label_mode"] == "multiclass"
        assert parameters["cxr_harness.checkpoint_sha256"] == checkpoint.sha256
        assert len(parameters["cxr_harness.preprocessing_sha256"]) == 64
        assert "temperature" in parameters["cxr_harness.operating_point"]
        assert parameters["cxr_harness.variant"] == path.name.split(".")[1]
        assert ("HINT_BF16" in parameters) == path.name.endswith(("bf16.openvino", "bf16-uint8in-prob.openvino"))


def test_bf16_is_left_out_for_onnx_runtime_and_the_table_says_why(exported: tuple[Path, ExportOutcome]) -> None:
    rows = [row for row in exported[1].rows() if row[1] == "d2-resnet18-ce.bf16.onnxruntime"]
    assert [row[2:4] for row in rows] == [["left out", ""]]
    assert "bfloat16 convolution" in rows[0][5]
    assert [made["left_out"] for made in exported[1].summary()["artifacts"]].count(True) == 2


# --- made once, whole or not at all -------------------------------------------------------------------------------


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    paths = [path for path in _repository(folder).rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def test_a_second_export_changes_nothing_and_force_makes_all_of_it_again(folder: Path) -> None:
    before = _state(folder)
    outcome = _export(folder)
    assert outcome.error is None
    assert [made.duration_s for made in _served(outcome)] == [None] * len(_served(outcome))
    assert _state(folder) == before
    small = ExportRequest(triton=True, force=True)
    (made,) = _served(_export(folder, small))
    assert made.status == "made"
    assert _state(folder).keys() == before.keys()
    assert _state(folder) != before


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.unlink()  # The run's own file has the same inode.
    path.write_bytes(content)


def _add_line(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize("damage", [_flip, Path.unlink], ids=["one byte", "gone"])
@pytest.mark.parametrize("name", ["1/model.onnx", "labels.txt", "config.pbtxt", "config.pbtxt.json"])
def test_a_damaged_model_is_made_again_and_no_other(folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    path = _repository(folder) / "d2-resnet18-ce.fp32.onnxruntime" / name
    content, before = path.read_bytes(), _state(folder)
    damage(path)
    request = ExportRequest(uint8_input=True, probabilities=True, triton=True)
    outcome = _export(folder, request)
    assert outcome.error is None
    assert [made.status for made in _served(outcome)] == ["made", "up to date"]
    if name != "config.pbtxt.json":  # It holds the time.
        assert path.read_bytes() == content
    others = {key: value for key, value in before.items() if ".fp32.onnxruntime" not in key}
    assert others.items() <= _state(folder).items()


def test_a_variant_that_was_exported_anew_is_refreshed(folder: Path) -> None:
    own = folder / "export" / "fp32.onnx"
    served = _repository(folder) / "d2-resnet18-ce.fp32.onnxruntime" / "1" / "model.onnx"
    sidecar = verified_sidecar(own, kind=Kind.ONNX_MODEL, remedy="")
    model = onnx.load(own)
    model.producer_name = "another"
    changed = model.SerializeToString()
    write_artifact(own, lambda path: _write(path, changed), kind=Kind.ONNX_MODEL, parents=sidecar.parents)
    new = verified_sidecar(own, kind=Kind.ONNX_MODEL, remedy="")
    assert served.read_bytes() != changed, "the repository keeps the old file until it is exported"
    _models(folder).ensure_onnx(own, new, Variant(precision="fp32"))
    assert served.read_bytes() == changed
    assert verified_sidecar(_config_path(served), kind=Kind.TRITON_MODEL, remedy="").parents["onnx"] == new.sha256
    assert {path.name for path in served.parent.iterdir()} == {"model.onnx"}


def test_models_of_an_earlier_checkpoint_are_told_when_fewer_variants_are_exported(folder: Path) -> None:
    kept = _repository(folder) / "d2-resnet18-ce.fp32-uint8in-prob.onnxruntime"
    own, foreign = kept.with_name("d2-resnet18-ce.mine"), kept.with_name("d2-resnet18-ce.fp32.fp32.onnxruntime")
    own.mkdir()
    shutil.copytree(kept, foreign)  # Of a run named d2-resnet18-ce.fp32.
    for served in (kept, foreign):
        sidecar = served / "config.pbtxt.json"
        content = json.loads(sidecar.read_text())
        content["parents"]["checkpoint"] = "0" * 64
        sidecar.write_text(json.dumps(content))
    outcome = _export(folder, ExportRequest(triton=True))
    assert outcome.error is None
    assert [made.path for made in outcome.artifacts if made.left_out] == [kept]
    assert "earlier checkpoint" in outcome.artifacts[-1].note
    assert (kept / "1" / "model.onnx").is_file()


def test_what_a_killed_export_staged_is_removed_even_without_triton_and_of_this_run_alone(folder: Path) -> None:
    staging = folder.parent / ".triton-staging"
    gone = ["d2-resnet18-ce.int8.onnxruntime", "d2-resnet18-ce.fp32.onnxruntime.old"]
    kept = ["d2-resnet18-ce.int8.onnxruntime.old", "another.fp32.onnxruntime", "d2-resnet18-ce.fp32.int8.onnxruntime"]
    for name in (*gone, *kept):
        (staging / name / "1").mkdir(parents=True)
    assert _export(folder, ExportRequest()).error is None
    assert sorted(path.name for path in staging.iterdir()) == sorted(kept)
    for name in kept:
        shutil.rmtree(staging / name)
    assert _export(folder, ExportRequest()).error is None
    assert not staging.exists()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _config_path(served: Path) -> Path:
    return served.parent.parent / "config.pbtxt"


def _passport(folder: Path) -> Passport:
    sidecar = verified_sidecar(folder / "export" / "fp32.onnx", kind=Kind.ONNX_MODEL, remedy="")
    if "passport" not in sidecar.details:
        sidecar = verified_sidecar(folder / "export" / "fp32-uint8in-prob.onnx", kind=Kind.ONNX_MODEL, remedy="")
    return Passport.model_validate(sidecar.details["passport"])


def _models(folder: Path, maker: Maker | None = None) -> TritonModels:
    return TritonModels(RunDirectory(folder), _passport(folder), maker or Maker(force=False), SILENT)


def _refreshed(folder: Path) -> None:
    onnx_model = verified_sidecar(folder / "export" / "fp32.onnx", kind=Kind.ONNX_MODEL, remedy="")
    _models(folder, Maker(force=True)).ensure_onnx(
        folder / "export" / "fp32.onnx", onnx_model, Variant(precision="fp32")
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["link_or_copy", "_write"])
def test_a_full_disk_is_told_and_leaves_the_model_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    before = _state(folder)

    def full(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(triton_repository, where, full)
    with pytest.raises(ArtifactError, match="disk is full") as caught:
        _refreshed(folder)
    assert "Free space" in caught.value.hint
    assert _state(folder) == before
    assert not list(folder.parent.glob(".triton*"))


def test_a_file_that_changes_meanwhile_is_not_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _state(folder)
    monkeypatch.setattr(triton_repository, "link_or_copy", lambda source, target: target.write_bytes(b"other"))
    with pytest.raises(ArtifactError, match="changed while"):
        _refreshed(folder)
    assert _state(folder) == before


_KILLED = """
import os, signal, sys
from pathlib import Path
from export import folders
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def fill(staging):
    (staging / "half").write_text("new")
    if sys.argv[2] == "filling":
        kill()
    (staging / "whole").write_text("new")
if sys.argv[2] == "syncing":
    folders._sync = kill
if sys.argv[2] == "renamed":
    folders._sync_one = lambda path: kill() if path.name == "triton" else None
root = Path(sys.argv[1])
folders.write_folder_atomically(root / "triton" / "model", root / ".staging" / "model", fill)
"""


@pytest.mark.parametrize("old", [False, True], ids=["the first", "one over another"])
@pytest.mark.parametrize("moment", ["filling", "syncing", "renamed"])
def test_a_killed_export_leaves_the_old_model_or_the_new_and_the_next_one_cleans_up(
    tmp_path: Path, moment: str, old: bool
) -> None:
    model = tmp_path / "triton" / "model"
    if old:
        model.mkdir(parents=True)
        (model / "old").write_text("old")
    script = [sys.executable, "-c", _KILLED, str(tmp_path)]
    root = Path(__file__).parents[2]
    assert subprocess.run([*script, moment], cwd=root, check=False).returncode == -signal.SIGKILL
    found = {path.name for path in model.iterdir()} if model.exists() else set()
    assert found == ({"half", "whole"} if moment == "renamed" else {"old"} if old else set())
    assert [path.name for path in (tmp_path / "triton").iterdir()] == ["model"] * (old or moment == "renamed")
    assert subprocess.run([*script, "never"], cwd=root, check=False).returncode == 0
    assert {path.name for path in model.iterdir()} == {"half", "whole"}
    assert {path.name for path in tmp_path.iterdir()} == {"triton"}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_cannot_exchange_folders_gets_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class _Library:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.renameat2 = lambda *_: -1

    monkeypatch.setattr(folders.ctypes, "CDLL", _Library)
    monkeypatch.setattr(folders.ctypes, "get_errno", lambda: number)
    path = tmp_path / "triton" / "model"
    for text in ("old", "new"):
        folders.write_folder_atomically(path, tmp_path / "staging" / "model", lambda to, text=text: (to / text).touch())
        assert [each.name for each in path.iterdir()] == [text]
    assert {each.name for each in tmp_path.iterdir()} == {"triton"}


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_a_file_that_cannot_be_linked_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").write_bytes(b"weights")
    folders.link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"weights"
    assert not (tmp_path / "target").samefile(tmp_path / "source")


# --- back ends ----------------------------------------------------------------------------------------------------


def _engine(folder: Path, name: str, profile: list[int]) -> tuple[Path, Sidecar]:
    path = folder / "export" / name
    return path, write_artifact(
        path, lambda to: _write(to, b"engine"), kind=Kind.ENGINE, parents={}, details={"profile": list(profile)}
    )


@pytest.mark.parametrize(("profile", "note"), [([1, 4, 16], ""), ([2, 4, 16], "answers batches of 2 to 16 only")])
def test_an_engine_of_tensorrt_is_served_with_its_own_batches(folder: Path, profile: list[int], note: str) -> None:
    maker = Maker(force=False)
    path, sidecar = _engine(folder, "fp16.tensorrt.engine", profile)
    _models(folder, maker).ensure_engine(path, sidecar, Variant(precision="fp16"), "tensorrt")
    served = _repository(folder) / "d2-resnet18-ce.fp16.tensorrt"
    config = _config(served)
    assert config.backend == "tensorrt"
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert (served / "1" / "model.plan").samefile(path)
    assert [made.note for made in maker.made] == [note]
    assert (
        verified_sidecar(served / "config.pbtxt", kind=Kind.TRITON_MODEL, remedy="").parents["engine"] == sidecar.sha256
    )


def test_an_engine_of_tensorrt_rtx_is_left_out_and_the_table_says_why(folder: Path) -> None:
    maker = Maker(force=False)
    before = _state(folder)
    path, sidecar = _engine(folder, "fp32.rtx.engine", [1, 8, 8])
    _models(folder, maker).ensure_engine(path, sidecar, Variant(precision="fp32"), "rtx")
    (made,) = maker.made
    assert (made.status, made.path.name) == ("left out", "d2-resnet18-ce.fp32.tensorrt")
    assert "not of TensorRT-RTX" in made.note
    assert _state(folder) == before


@pytest.mark.parametrize(
    ("backend", "precision", "kind"),
    [
        ("onnxruntime", "fp32", "KIND_AUTO"),
        ("onnxruntime", "int8-u8s8", "KIND_CPU"),
        ("tensorrt", "fp16", "KIND_GPU"),
        ("openvino", "int8", "KIND_CPU"),
    ],
)
def test_each_back_end_runs_where_it_can(folder: Path, backend: TritonBackend, precision: Precision, kind: str) -> None:
    profile = BatchProfile() if backend == "tensorrt" else None
    variant = Variant(precision=precision)
    model = ServedModel(name="x", backend=backend, variant=variant, passport=_passport(folder), profile=profile)
    (group,) = _parsed(model.config()).instance_group
    assert (group.count, _schema().ModelInstanceGroup.Kind.Name(group.kind)) == (1, kind)


def test_the_served_file_answers_the_golden_pair_through_the_names_of_its_config(exported: tuple[Path, Any]) -> None:
    served = _repository(exported[0]) / "d2-resnet18-ce.fp32-uint8in-prob.onnxruntime"
    config, pair = _config(served), _passport(exported[0]).pair
    session = onnxruntime.InferenceSession(str(served / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    outputs = [each.name for each in config.output]
    pixels_bhwc = pair.pixels_hwc()[None]
    assert list(pixels_bhwc.shape[1:]) == list(config.input[0].dims)
    _, answer_b = session.run(outputs, {config.input[0].name: pixels_bhwc})
    assert answer_b[0] == int(np.argmax(pair.logits))
