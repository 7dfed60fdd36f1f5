"""An engine file is what its name, its header and its sidecar say, as far as that shows without a GPU."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from harness.core.engine_files import checked_engine_header, flavour_from_name, header_differences
from harness.core.errors import ArtifactError
from harness.core.rtx_header import HEADER_BYTES, RtxHeader

_HEADER = RtxHeader(version="1.7.1.116", size_bytes=100, targets=("SM86", "SM89"))


def _rtx_engine(size_bytes: int = 100) -> bytes:
    header = (
        b"vtrt" + bytes(12) + struct.pack("<Q", size_bytes) + bytes([1, 7, 1, 116]) + b"vtrt" + struct.pack("<I", 12)
    )
    return header.ljust(size_bytes, b"\0")


@pytest.mark.parametrize(
    ("name", "flavour"),
    [
        ("fp32.rtx.engine", "rtx"),
        ("int8-uint8in-prob.tensorrt.engine", "tensorrt"),
        ("fp32.engine", None),
        ("fp32.cuda.engine", None),
        ("fp32.rtx.engine.json", None),
        ("fp32.onnx", None),
    ],
)
def test_the_name_tells_the_flavour(name: str, flavour: str | None) -> None:
    assert flavour_from_name(Path("folder.rtx.engine") / name) == flavour


def test_a_whole_rtx_engine_gives_its_header(tmp_path: Path) -> None:
    path = tmp_path / "fp32.rtx.engine"
    path.write_bytes(_rtx_engine())

    assert checked_engine_header(path, "rtx") == _HEADER


def test_of_tensorrts_own_engine_nothing_can_be_told(tmp_path: Path) -> None:
    path = tmp_path / "fp32.tensorrt.engine"
    path.write_bytes(b"some plan of an unknown layout")

    assert checked_engine_header(path, "tensorrt") is None


@pytest.mark.parametrize("flavour", ["tensorrt", "rtx"])
def test_an_onnx_file_under_the_name_of_an_engine_is_refused(tmp_path: Path, flavour: Any) -> None:
    path = tmp_path / f"fp32.{flavour}.engine"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["logits"])], "tiny", [image], [])
    onnx.save(helper.make_model(graph, ir_version=10), path)

    with pytest.raises(ArtifactError, match="is an ONNX file under the name of an engine"):
        checked_engine_header(path, flavour)


def test_an_engine_of_rtx_under_the_name_of_tensorrts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fp32.tensorrt.engine"
    path.write_bytes(_rtx_engine())

    with pytest.raises(ArtifactError, match="engine of TensorRT-RTX") as caught:
        checked_engine_header(path, "tensorrt")
    assert "<variant>.rtx.engine" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (_rtx_engine()[: HEADER_BYTES - 1], "not a TensorRT-RTX engine"),
        (_rtx_engine()[:-1], "truncated"),
        (
            b"ptrt and the rest of a plan of TensorRT, longer than the header of an RTX engine",
            "not a TensorRT-RTX engine",
        ),
    ],
    ids=["empty", "header cut", "end cut", "foreign"],
)
def test_what_is_no_whole_rtx_engine_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "fp32.rtx.engine"
    path.write_bytes(content)

    with pytest.raises(ArtifactError, match=words) as caught:
        checked_engine_header(path, "rtx")
    assert "harness export" in caught.value.hint


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({}, None),
        ({"flavour": "rtx", "flavour_version": "1.7.1.116", "targets": ["SM86", "SM89"]}, None),
        ({"flavour": "tensorrt"}, "an engine of tensorrt"),
        ({"flavour_version": "1.6.0.1"}, "TensorRT-RTX 1.6.0.1, the header 1.7.1.116"),
        ({"targets": ["SM89"]}, "targets ['SM89'], the header ['SM86', 'SM89']"),
    ],
)
def test_a_header_that_contradicts_its_sidecar_is_told(details: dict[str, Any], words: str | None) -> None:
    differences = header_differences(_HEADER, details)

    assert len(differences) == (words is not None)
    if words is not None:
        assert words in differences[0]
