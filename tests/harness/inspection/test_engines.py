"""Engines that nothing can load here: foreign bytes, and those of TensorRT itself, of which only the sidecar tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.core.artifacts import Kind, write_artifact
from harness.core.contract import Contract, Preprocessing
from harness.inspection.many import inspect_files

_DETAILS: dict[str, Any] = {
    "flavour": "tensorrt",
    "flavour_version": "11.4.0.106",
    "profile": [1, 8, 32],
    "workspace_bytes": 4 << 30,
    "tf32": False,
    "precision": "fp32",
    "targets": ["this GPU"],
    "build_s": 31.5,
    "builder_log": ["WARNING: a line of the builder"],
}


def _engine(path: Path, content: bytes, **details: Any) -> Path:
    contract = Contract(
        case="d2-resnet18-ce",
        class_names=("covid", "normal", "pneumonia"),
        label_mode="multiclass",
        preprocessing=Preprocessing(resize_px=256, crop_px=224),
        synthetic=False,
    )

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_artifact(
        path,
        write,
        kind=Kind.ENGINE,
        parents={"onnx": "1" * 64, "checkpoint": "2" * 64},
        contract=contract,
        details=_DETAILS | details,
    )
    return path


def test_of_tensorrts_own_engine_the_sidecar_is_told_and_said_to_be_all(tmp_path: Path) -> None:
    path = _engine(tmp_path / "fp32.tensorrt.engine", b"a plan of TensorRT, whose layout is not documented" * 9)

    (inspection,) = inspect_files([path])
    text = "\n".join(inspection.lines())

    assert inspection.findings == ()
    assert inspection.summary()["content"]["header"] is None
    assert "only TensorRT itself, on its GPU, can read it" in text
    for words in ("tensorrt 11.4.0.106", "1 to 32, tuned for 8", "TF32 off", "in 31.5 s with a workspace of 4 GiB"):
        assert words in text
    assert "WARNING: a line of the builder" in text


def test_tf32_is_told_where_it_was_allowed(tmp_path: Path) -> None:
    path = _engine(tmp_path / "fp32.tensorrt.engine", b"plan" * 99, tf32=True)

    assert any("TF32 allowed" in line for line in inspect_files([path])[0].lines())


def test_foreign_bytes_under_the_sidecar_of_an_rtx_engine_are_told(tmp_path: Path) -> None:
    path = _engine(tmp_path / "fp32.rtx.engine", b"no engine at all" * 9, flavour="rtx")

    (finding,) = inspect_files([path])[0].findings
    assert "not a TensorRT-RTX engine" in finding


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fp32.rtx.engine", "not a TensorRT-RTX engine"),
        ("fp32.tensorrt.engine", "Nothing tells that this is an engine"),
        ("some.engine", "Nothing tells that this is an engine"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"vtr", b"no engine at all" * 9], ids=["empty", "short", "text"])
def test_foreign_bytes_without_a_sidecar_are_told(tmp_path: Path, name: str, words: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    (finding,) = inspect_files([path])[0].findings
    assert words in finding
