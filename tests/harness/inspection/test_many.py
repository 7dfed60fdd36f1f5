"""`harness inspect` on a run that was really trained and exported: sound as it is, then with each thing wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.core.files import sha256_from_file
from harness.inspection.many import inspect_files
from harness.inspection.report import Inspection

_HAS_ENGINE = util.find_spec("tensorrt_rtx") is not None
_needs_engine = pytest.mark.skipif(not _HAS_ENGINE, reason="TensorRT-RTX is not installed: the extra `rtx`")
_NAMES = ["checkpoint.safetensors", "golden.npz", "export/fp32.onnx"]
_ENGINE = "export/fp32.rtx.engine"
_ALL = [*_NAMES, *([_ENGINE] if _HAS_ENGINE else [])]


def _inspected(path: Path) -> Inspection:
    (inspection,) = inspect_files([path])
    return inspection


@pytest.fixture
def folder(copied_run: Callable[[], Any]) -> Path:
    return Path(copied_run().folder)


@pytest.fixture
def linked_folder(session_run: Any, tmp_path: Path) -> Path:
    """The run with links in place of its large files, for tests that change nothing but JSON."""

    def copy(source: str, target: str) -> None:
        if source.endswith(".json"):
            shutil.copy(source, target)
        else:
            os.link(source, target)

    return Path(shutil.copytree(session_run.folder, tmp_path / "runs" / "linked", copy_function=copy))


def _edit_sidecar(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    beside = path.with_name(path.name + ".json")
    content = json.loads(beside.read_text())
    edit(content)
    beside.write_text(json.dumps(content))


def _sign(path: Path) -> None:
    """Make the sidecar agree with the file again, as whoever replaces both would."""
    _edit_sidecar(path, lambda content: content.update(sha256=sha256_from_file(path), size_bytes=path.stat().st_size))


@pytest.mark.parametrize("name", _ALL)
def test_every_file_of_a_run_is_sound_and_belongs_to_its_checkpoint(session_run: Any, name: str) -> None:
    path = session_run.folder / name
    inspection = _inspected(path)
    summary = inspection.summary()

    assert inspection.findings == ()
    assert inspection.error is None
    assert summary["file"]["sha256"] == sha256_from_file(path)
    assert summary["file"]["size_bytes"] == path.stat().st_size
    assert summary["sidecar"]["state"] == "agrees"
    assert summary["contract"]["case"] == "d2-resnet18-ce"
    assert summary["contract"]["synthetic"] is True
    if name != "checkpoint.safetensors":
        assert summary["parents"]["checkpoint"]["state"] == "matches"


def test_a_checkpoint_tells_its_parameters_and_where_its_weights_came_from(session_run: Any) -> None:
    content = _inspected(session_run.folder / "checkpoint.safetensors").summary()["content"]

    assert content["parameters"] == 11_178_051
    assert (content["tensors"], content["types"]) == (122, {"F32": 102, "I64": 20})
    assert (content["initial_weights"], content["epoch"]) == ("random", 1)


def test_a_golden_tells_its_answers(session_run: Any) -> None:
    content = _inspected(session_run.folder / "golden.npz").summary()["content"]

    assert content == {"shape": [60, 3], "type": "float32", "precision": "fp32", "device": "cpu"}


@_needs_engine
def test_an_engine_tells_its_header_its_profile_and_its_build(session_run: Any) -> None:
    summary = _inspected(session_run.folder / _ENGINE).summary()
    content = summary["content"]

    assert content["flavour"] == "rtx"
    assert content["header"]["size_bytes"] == summary["file"]["size_bytes"]
    assert content["header"]["version"] == content["flavour_version"]
    assert content["header"]["targets"] == ["SM80", "SM86", "SM89", "SM120", "SM121"]
    assert (content["profile"], content["tf32"], content["precision"]) == ([1, 8, 8], False, "fp32")
    assert content["build_s"] > content["builder_s"] > 0
    assert summary["sidecar"]["build_s"] == content["build_s"]
    assert summary["parents"]["onnx"]["state"] == "matches"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("name", _ALL)
def test_a_flipped_byte_disagrees_with_the_sidecar(folder: Path, name: str) -> None:
    _flip(folder / name)

    inspection = _inspected(folder / name)

    assert "The sidecar describes another file" in inspection.findings[0]
    assert inspection.error is not None
    assert inspection.error.exit_code == 1
    assert inspection.summary()["sidecar"]["state"] == "disagrees"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("checkpoint.safetensors", "not a whole safetensors file"),
        ("golden.npz", "not a whole golden"),
        ("export/fp32.onnx", "not a readable ONNX file"),
        pytest.param(_ENGINE, "truncated or overwritten", marks=_needs_engine),
    ],
)
def test_a_truncated_file_is_told_with_its_reason(folder: Path, name: str, words: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _sign(path)

    assert any(words in finding for finding in _inspected(path).findings)


@pytest.mark.parametrize("name", _ALL)
def test_a_missing_sidecar_inside_a_run_is_a_finding_and_elsewhere_a_fact(
    linked_folder: Path, tmp_path: Path, name: str
) -> None:
    path = linked_folder / name
    path.with_name(path.name + ".json").unlink()
    elsewhere = tmp_path / path.name
    shutil.copy(path, elsewhere)

    assert "has no sidecar" in _inspected(path).findings[0]
    assert _inspected(elsewhere).findings == ()
    assert _inspected(elsewhere).summary()["sidecar"] == {"state": "absent"}


def test_a_sidecar_that_is_no_sidecar_is_a_finding(linked_folder: Path) -> None:
    (linked_folder / "golden.npz.json").write_text("{}")

    inspection = _inspected(linked_folder / "golden.npz")

    assert "golden.npz.json is not readable: kind: Field required" in inspection.findings[0]


@pytest.mark.parametrize("name", _ALL[1:])
def test_a_file_of_another_checkpoint_is_told(folder: Path, name: str) -> None:
    _flip(folder / "checkpoint.safetensors")

    inspection = _inspected(folder / name)

    assert inspection.summary()["parents"]["checkpoint"]["state"] == "another"
    assert any("made from another checkpoint than" in finding for finding in inspection.findings)


def test_an_onnx_file_of_another_run_is_told_even_under_a_sidecar_that_was_bent_to_it(folder: Path) -> None:
    path = folder / "export" / "fp32.onnx"
    model = onnx.load(path)
    metadata = {each.key: each for each in model.metadata_props}
    metadata["cxr_harness.checkpoint_sha256"].value = "0" * 64
    onnx.save(model, path)
    _sign(path)

    assert any("made from checkpoint 000000000000..., its sidecar" in each for each in _inspected(path).findings)


def test_without_a_checkpoint_the_file_stands_alone(linked_folder: Path) -> None:
    (linked_folder / "checkpoint.safetensors").unlink()

    inspection = _inspected(linked_folder / "golden.npz")

    assert inspection.findings == ()
    assert inspection.summary()["parents"]["checkpoint"]["state"] == "not found"
    assert any("no checkpoint found" in line for line in inspection.lines())


@_needs_engine
def test_an_engine_of_another_onnx_file_is_told(folder: Path) -> None:
    _flip(folder / "export" / "fp32.onnx")

    findings = _inspected(folder / _ENGINE).findings

    assert findings == ("The file was made from another ONNX file than fp32.onnx",)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("case", "d2-resnet18-focal", "File against sidecar, case: d2-resnet18-focal"),
        ("class_names", '["covid", "pneumonia", "normal"]', "File against sidecar, class names"),
        ("label_mode", "multilabel", "File against sidecar, label mode"),
        ("synthetic", "false", "File against run.json, synthetic"),
        ("preprocessing_sha256", "0" * 64, "The file's own preprocessing_sha256 is 0000"),
        ("preprocessing", "{}", "The contract inside the file is not readable: preprocessing.resize_px"),
    ],
)
def test_edited_metadata_disagree_with_sidecar_run_or_themselves(
    folder: Path, key: str, value: str, words: str
) -> None:
    path = folder / "export" / "fp32.onnx"
    model = onnx.load(path)
    {each.key: each for each in model.metadata_props}[f"cxr_harness.{key}"].value = value
    onnx.save(model, path)
    _sign(path)

    assert any(words in finding for finding in _inspected(path).findings)


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("golden.npz", lambda it: it["contract"].update(synthetic=False), "Sidecar against run.json, synthetic"),
        ("golden.npz", lambda it: it["contract"].update(class_names=["a", "b"]), "2 classes, the file answers with 3"),
        ("golden.npz", lambda it: it["details"].update(images=59), "59 images, the file has the answers to 60"),
        ("golden.npz", lambda it: it.update(kind="engine"), "By its sidecar the file is: engine, by its bytes: golden"),
        ("export/fp32.onnx", lambda it: it["details"].update(precision="fp16"), "says fp16, the file's weights are"),
        ("export/fp32.onnx", lambda it: it["details"].update(opset=17), "says opset 17, the file 20"),
        ("export/fp32.onnx", lambda it: it["details"].update(input="film"), "says input film, the file image"),
        ("export/fp32.onnx", lambda it: it.update(contract=None), "The file carries a contract, its sidecar none"),
        (
            "export/fp32.onnx",
            lambda it: it["contract"]["preprocessing"].update(crop_px=96),
            "File against sidecar, preprocessing",
        ),
        ("checkpoint.safetensors", lambda it: it["details"]["identity"].update(seed=1), "than run.json says: seed"),
        ("checkpoint.safetensors", lambda it: it["contract"].update(case="d2-vgg16-ce"), "of another network"),
        pytest.param(_ENGINE, lambda it: it["details"].update(targets=["SM90"]), "SM90", marks=_needs_engine),
        pytest.param(
            _ENGINE, lambda it: it["details"].update(flavour="tensorrt"), "an engine of tensorrt", marks=_needs_engine
        ),
        pytest.param(
            _ENGINE, lambda it: it["details"].update(flavour_version="1.6"), "TensorRT-RTX 1.6", marks=_needs_engine
        ),
    ],
)
def test_an_edited_sidecar_disagrees_with_the_file(linked_folder: Path, name: str, edit: Any, words: str) -> None:
    _edit_sidecar(linked_folder / name, edit)

    assert any(words in finding for finding in _inspected(linked_folder / name).findings)


def test_an_edited_record_of_the_run_disagrees_with_all_its_files(linked_folder: Path) -> None:
    record = json.loads((linked_folder / "run.json").read_text())
    record["contract"]["label_mode"] = "multilabel"
    (linked_folder / "run.json").write_text(json.dumps(record))

    for name in _ALL:
        assert any(
            "against run.json, label mode" in finding for finding in _inspected(linked_folder / name).findings
        ), name


def test_bytes_of_another_kind_under_the_name_are_told(folder: Path) -> None:
    path = folder / "export" / "fp32.onnx"
    shutil.copy(folder / "golden.npz", path)

    assert "By its sidecar the file is: onnx model, by its bytes: golden" in _inspected(path).findings


def test_what_cannot_be_inspected_does_not_end_the_others(session_run: Any, tmp_path: Path) -> None:
    unknown = tmp_path / "notes.txt"
    unknown.write_text("hello")
    paths = [tmp_path / "absent.onnx", tmp_path, unknown, session_run.folder / "golden.npz"]

    inspections = inspect_files(paths)

    errors = [inspection.error for inspection in inspections]
    assert [error.message if error else None for error in errors] == [
        f"{paths[0]} does not exist.",
        f"{paths[1]} is a folder.",
        f"{unknown} is of no kind that is known here: its bytes begin with b'hello', and no sidecar says what it is.",
        None,
    ]
    assert all(error is None or error.hint for error in errors)


def test_an_archive_of_other_things_is_of_no_known_kind(tmp_path: Path) -> None:
    path = tmp_path / "films.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("film.png", b"")

    error = _inspected(path).error

    assert error is not None
    assert "of no kind that is known here" in error.message
    assert ".safetensors, .npz, .onnx, .engine" in error.hint


def test_other_artifacts_with_a_sidecar_are_told_by_it(session_run: Any) -> None:
    (path,) = session_run.runs_folder.glob("evaluation-sets/*/images.npy")
    summary = _inspected(path).summary()

    assert summary["file"]["kind"] == "evaluation images"
    assert summary["sidecar"]["state"] == "agrees"
    assert summary["findings"] == []


def test_the_command_prints_all_on_at_most_110_columns_and_ends_with_0(session_run: Any) -> None:
    paths = [str(session_run.folder / name) for name in _ALL]
    done = CliRunner().invoke(cli, ["inspect", *paths])

    assert done.exit_code == 0, done.output
    assert max(len(line) for line in done.stdout.splitlines() if line not in paths) <= 110
    for words in ("agrees with the file's hash", "11,178,051", "logits_bc", "image float32 [batch, 3, 64, 64]"):
        assert words in done.stdout
    assert "FINDING" not in done.stdout


def test_the_command_prints_findings_last_and_ends_with_1(folder: Path) -> None:
    _flip(folder / "golden.npz")
    done = CliRunner().invoke(cli, ["inspect", str(folder / "golden.npz")])

    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert next(line for line in reversed(lines) if not line.startswith(" " * 4)).startswith("  FINDING ")
    assert "Error: " in done.stderr
    assert "Hint: `harness export RUN`" in done.stderr


def test_json_has_the_same_keys_for_every_file_sound_or_not(folder: Path, tmp_path: Path) -> None:
    _flip(folder / "golden.npz")
    paths = [str(folder / "golden.npz"), str(folder / "export" / "fp32.onnx"), str(tmp_path / "absent.pth")]
    done = CliRunner().invoke(cli, ["inspect", "--json", *paths])

    assert done.exit_code == 1
    summaries = json.loads(done.stdout)
    assert [summary["path"] for summary in summaries] == paths
    keys = {"path", "file", "sidecar", "content", "contract", "passport", "parents", "findings"}
    assert all(set(summary) == keys for summary in summaries)
    assert [bool(summary["findings"]) for summary in summaries] == [True, False, True]


def test_nothing_is_written_and_a_large_checkpoint_is_not_loaded(
    linked_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(safetensors.torch, "load_file", refuse)
    before = sorted((path, path.stat().st_mtime_ns) for path in linked_folder.rglob("*"))

    assert all(inspection.findings == () for inspection in inspect_files([linked_folder / name for name in _ALL]))
    assert sorted((path, path.stat().st_mtime_ns) for path in linked_folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("dtype", "stored_bytes"), [("|O", 60 * 3 * 8), ("<f4", 60 * 3 * 4 - 1)], ids=["pickled objects", "one byte short"]
)
def test_a_golden_that_holds_no_table_of_numbers_is_told_from_its_header(
    folder: Path, dtype: str, stored_bytes: int
) -> None:
    path = folder / "golden.npz"
    array = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": (60, 3)}
    np.lib.format.write_array_header_1_0(array, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits_bc.npy", array.getvalue() + b"." * stored_bytes)
    _sign(path)

    (finding,) = _inspected(path).findings
    assert "does not hold a table of numbers" in finding
