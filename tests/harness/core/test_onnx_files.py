"""Protobuf reads almost anything as some model: what is none is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from harness.core.errors import ArtifactError
from harness.core.onnx_files import model_from_onnx


@pytest.mark.parametrize("content", [b"", b"hello world this is not onnx", b"\x08\x0a\x12\x07pytorch", b"\xff" * 99])
def test_bytes_that_are_no_model_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fp32.onnx"
    path.write_bytes(content)

    with pytest.raises(ArtifactError, match=r"fp32\.onnx is not"):
        model_from_onnx(path)


def test_a_truncated_model_is_refused(tmp_path: Path, tiny_onnx: Callable[..., Any]) -> None:
    path = tmp_path / "fp32.onnx"
    content = tiny_onnx().SerializeToString()
    path.write_bytes(content[:-20])

    with pytest.raises(ArtifactError, match="not a readable ONNX file"):
        model_from_onnx(path)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path, tiny_onnx: Callable[..., Any]) -> None:
    path = tmp_path / "fp32.onnx"
    path.write_bytes(tiny_onnx().SerializeToString().replace(b"Conv", b"C\xffnv"))

    with pytest.raises(ArtifactError, match="not text"):
        model_from_onnx(path)


def test_a_convolution_without_weights_is_refused(tmp_path: Path, tiny_onnx: Callable[..., Any]) -> None:
    model = tiny_onnx()
    next(node for node in model.graph.node if node.op_type == "Conv").input.pop()
    path = tmp_path / "fp32.onnx"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(ArtifactError, match="Conv lacks inputs"):
        model_from_onnx(path)


def test_weights_in_another_file_are_left_there(tmp_path: Path, tiny_onnx: Callable[..., Any]) -> None:
    path = tmp_path / "fp32.onnx"
    onnx.save(tiny_onnx(), path, save_as_external_data=True, location="fp32.onnx.data", size_threshold=0)
    path.with_name("fp32.onnx.data").unlink()

    assert all(tensor.external_data for tensor in model_from_onnx(path).graph.initializer)
