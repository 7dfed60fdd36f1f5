"""float16 and bfloat16 files: each weight rounded once, float32 only at the ends, and runtimes that take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from export.low_precision import low_precision_model
from export.onnx_export import save_and_check
from harness.core.errors import ExportError

_TYPES = {"fp16": (TensorProto.FLOAT16, np.float16), "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16)}
_IMAGES_BCHW = np.random.default_rng(1).normal(size=(4, 3, 16, 16)).astype(np.float32)
Network = Callable[..., Path]


@pytest.fixture(params=["fp16", "bf16"])
def precision(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def low(residual_network: Network, precision: Any, tmp_path: Path) -> Path:
    path = tmp_path / f"{precision}.onnx"
    save_and_check(low_precision_model(residual_network(), precision), path)
    return path


def _answers(path: Path) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": _IMAGES_BCHW})[0]


def test_only_the_two_ends_are_float32(low: Path, precision: Any) -> None:
    onnx.checker.check_model(str(low), full_check=True)
    graph = onnx.shape_inference.infer_shapes(onnx.load(low), strict_mode=True).graph
    low_type = _TYPES[precision][0]
    assert {tensor.data_type for tensor in graph.initializer} == {low_type}
    inside = {value.type.tensor_type.elem_type for value in graph.value_info}
    assert inside == {low_type}
    ends = [*graph.input, *graph.output]
    assert [(end.name, end.type.tensor_type.elem_type) for end in ends] == [
        ("image", TensorProto.FLOAT),
        ("logits", TensorProto.FLOAT),
    ]
    assert [node.op_type for node in graph.node].count("Cast") == 2


def test_every_weight_is_rounded_as_numpy_rounds_it(residual_network: Network, low: Path, precision: Any) -> None:
    wide = {each.name: numpy_helper.to_array(each) for each in onnx.load(residual_network()).graph.initializer}
    rounded = {each.name: onnx_ir.from_proto(each).numpy() for each in onnx.load(low).graph.initializer}
    assert rounded.keys() == wide.keys()
    for name, values in wide.items():
        expected = values.astype(_TYPES[precision][1])
        assert rounded[name].astype(np.float32).tobytes() == expected.astype(np.float32).tobytes(), name


def test_float16_keeps_subnormals_and_lets_what_is_smaller_become_zero(residual_network: Network) -> None:
    model = low_precision_model(residual_network(), "fp16")
    tiny = model.graph.initializers["b1"].const_value.numpy()[:4].astype(np.float64)
    np.testing.assert_allclose(tiny, [2 * 2.0**-24, -(2.0**-24), 0, 2.0**-24], rtol=0)


def test_a_weight_beyond_float16_is_refused_by_name_and_bfloat16_takes_it(residual_network: Network) -> None:
    source = residual_network(wh=np.full((3, 8), 70000, dtype=np.float32))
    with pytest.raises(ExportError, match=r"wh reaches 7e\+04, which fp16 cannot hold") as caught:
        low_precision_model(source, "fp16")
    assert "bf16" in caught.value.hint
    low_precision_model(source, "bf16")
    low_precision_model(residual_network(wh=np.full((3, 8), 65504, dtype=np.float32)), "fp16")


def test_onnx_runtime_answers_in_float16_almost_as_in_float32(residual_network: Network, tmp_path: Path) -> None:
    path = tmp_path / "fp16.onnx"
    save_and_check(low_precision_model(residual_network(), "fp16"), path)
    expected_bc, logits_bc = _answers(residual_network()), _answers(path)
    assert logits_bc.dtype == np.float32
    np.testing.assert_allclose(logits_bc, expected_bc, atol=0.01 * np.abs(expected_bc).max())
    assert (logits_bc != expected_bc).any(), "it was computed in float32"


def test_openvino_answers_almost_as_in_float32(residual_network: Network, low: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: the extra `openvino`")
    expected_bc = _answers(residual_network())
    (logits_bc,) = openvino.Core().compile_model(str(low), "CPU")([_IMAGES_BCHW]).values()
    np.testing.assert_allclose(logits_bc, expected_bc, atol=0.03 * np.abs(expected_bc).max())


def test_tensorrt_rtx_builds_it(low: Path, rtx_engine: Callable[..., Any]) -> None:
    assert rtx_engine(low).plan is not None


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_the_exported_resnet_is_low_inside_and_half_the_size(every_precision: Path, name: str) -> None:
    path, wide = every_precision / "export" / f"{name}.onnx", every_precision / "export" / "fp32.onnx"
    graph = onnx.load(path).graph
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in graph.initializer}
    assert 0.49 < path.stat().st_size / wide.stat().st_size < 0.53
