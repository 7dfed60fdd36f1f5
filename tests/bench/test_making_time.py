"""What an artifact took to make, with its parents, from real sidecars and damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.making_time import making_time_of
from harness.core.artifacts import Kind, write_artifact
from harness.core.files import write_text_atomically


def _made(path: Path, kind: Kind, parents: dict[str, str], **details: Any) -> str:
    return write_artifact(
        path, lambda place: write_text_atomically(place, path.name), kind=kind, parents=parents, details=details
    ).sha256


def test_the_builds_of_all_parents_are_added_and_calibration_is_apart(tmp_path: Path) -> None:
    base = _made(tmp_path / "fp32.onnx", Kind.ONNX_MODEL, {"checkpoint": "c"}, build_s=8.0)
    int8 = _made(tmp_path / "int8.onnx", Kind.ONNX_MODEL, {"onnx": base}, build_s=4.0, calibration_s=6.0)
    _made(tmp_path / "int8.ir.xml", Kind.OPENVINO_MODEL, {"onnx": int8}, build_s=1, calibration_s=6.0)
    found = making_time_of(tmp_path / "int8.ir.xml")
    assert found is not None
    assert (found.build_s, found.calibration_s) == (13.0, 6.0)
    alone = making_time_of(tmp_path / "fp32.onnx")
    assert alone is not None
    assert (alone.build_s, alone.calibration_s) == (8.0, None)


def test_what_is_not_recorded_is_not_guessed(tmp_path: Path) -> None:
    assert making_time_of(tmp_path / "absent.onnx") is None
    old = _made(tmp_path / "fp32.onnx", Kind.ONNX_MODEL, {})
    assert making_time_of(tmp_path / "fp32.onnx") is None
    _made(tmp_path / "fp32.rtx.engine", Kind.ENGINE, {"onnx": old}, build_s=9.0)
    assert making_time_of(tmp_path / "fp32.rtx.engine") is None
    _made(tmp_path / "fp16.rtx.engine", Kind.ENGINE, {"onnx": "gone"}, build_s=9.0)
    assert making_time_of(tmp_path / "fp16.rtx.engine") is None
    (tmp_path / "fp32.onnx.json").write_bytes(b"\xff")
    assert making_time_of(tmp_path / "fp32.onnx") is None


def test_a_real_export_tells_its_times(session_run: Any) -> None:
    found = making_time_of(session_run.folder / "export" / "fp32.onnx")
    assert found is not None
    assert found.build_s > 0
    assert found.calibration_s is None
    engine = session_run.folder / "export" / "fp32.rtx.engine"
    if not engine.is_file():
        pytest.skip("TensorRT-RTX is not installed: the extra `rtx`")
    built = making_time_of(engine)
    assert built is not None
    assert built.build_s > found.build_s
