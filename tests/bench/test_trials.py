"""What `harness bench` finds in an engine's own header before any runtime is asked."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from bench.trials import engine_problems
from harness.core.artifacts import Kind, Sidecar, write_artifact

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
