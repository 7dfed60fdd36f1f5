"""What an ONNX file tells of itself, in every precision and with every input that an exporter may give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.core.artifacts import Kind, write_artifact
from harness.inspection.many import inspect_files
from harness.inspection.onnx_weights import stored_weights
from harness.inspection.report import Inspection

_PARAMETERS = 4 * 3 * 3 * 3 + 2 * 4 + 2


def _saved(model: Any, path: Path) -> Inspection:
    onnx.save(model, path)
    return inspect_files([path])[0]


def test_the_file_of_a_run_tells_types_shapes_operators_and_work(session_run: Any) -> None:
    (inspection,) = inspect_files([session_run.folder / "export" / "fp32.onnx"])
    content = inspection.summary()["content"]

    assert (content["precision"], content["recorded_precision"]) == ("fp32", "fp32")
    assert (content["opset"], content["ir_version"]) == (20, 10)
    assert content["inputs"] == [{"name": "image", "type": "float32", "shape": ["batch", 3, 64, 64]}]
    assert content["outputs"] == [{"name": "logits", "type": "float32", "shape": ["batch", 3]}]
    assert (content["nodes"]["Conv"], content["nodes"]["Gemm"]) == (20, 1)
    assert content["external_data"] == []
    # Each batch norm of a ResNet-18 leaves a bias of its convolution for its own weight and bias: 4,800 fewer.
    assert (content["parameters"], content["recorded_parameters"]) == (11_178_051 - 4_800, 11_178_051)
    assert content["effective_flop"] < content["nominal_flop"]
    # 64 pixels instead of 224: the convolutions shrink with the area, the head does not.
    assert content["nominal_flop"] == pytest.approx((3_627_125_760 - 2 * 512 * 3) * (64 / 224) ** 2 + 2 * 512 * 3)


@pytest.mark.parametrize(
    ("variant", "precision", "weight_types", "activation_types"),
    [
        ("fp32", "fp32", {"fp32": 2}, ()),
        ("fp16", "fp16", {"fp16": 2}, ()),
        ("bf16", "bf16", {"bf16": 2}, ()),
        ("int8", "int8", {"int8": 2}, ("uint8",)),
        ("int8 of float weights", "int8", {"int8": 2}, ("uint8",)),
        ("uint8 nhwc", "fp32", {"fp32": 2}, ()),
    ],
)
def test_precision_and_parameters_are_told_by_what_the_weights_are(
    tiny_onnx: Callable[..., Any],
    variant: str,
    precision: str,
    weight_types: dict[str, int],
    activation_types: tuple[str, ...],
) -> None:
    weights = stored_weights(tiny_onnx(variant))

    assert weights.precision == precision
    assert weights.weight_types == weight_types
    assert weights.activation_types == activation_types
    assert weights.parameters == _PARAMETERS


def test_a_wide_head_on_narrow_weights_is_told_and_the_narrow_ones_name_the_file(tiny_onnx: Any) -> None:
    model = tiny_onnx("int8")
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 4), np.float32), "wide"))
    gemm.input[1] = "wide"

    weights = stored_weights(model)

    assert (weights.precision, weights.weight_types) == ("int8", {"int8": 1, "fp32": 1})


def test_weights_of_both_kinds_of_bytes_are_counted_together(tiny_onnx: Any) -> None:
    model = tiny_onnx("int8")
    for tensor in model.graph.initializer:
        if tensor.name in {"head_q", "head_zero"}:
            tensor.data_type = TensorProto.UINT8

    assert stored_weights(model).weight_types == {"int8": 2}


def test_weights_stored_narrow_and_cast_wide_have_the_precision_that_is_computed(tiny_onnx: Any) -> None:
    model = tiny_onnx("fp16")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    cast = helper.make_node("Cast", [conv.input[1]], ["wide"], to=TensorProto.FLOAT)
    conv.input[1] = "wide"
    model.graph.node.insert(0, cast)

    assert stored_weights(model).weight_types == {"fp32": 1, "fp16": 1}


def test_a_quantised_weight_that_is_cast_on_its_way_stays_quantised(tiny_onnx: Any) -> None:
    model = tiny_onnx("int8")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    index = next(i for i, node in enumerate(model.graph.node) if node.output[0] == conv.input[1])
    model.graph.node.insert(index + 1, helper.make_node("Cast", [conv.input[1]], ["half"], to=TensorProto.FLOAT16))
    conv.input[1] = "half"

    assert stored_weights(model).weight_types == {"int8": 2}


def test_a_bias_in_whole_numbers_counts_and_its_scale_does_not(tiny_onnx: Any) -> None:
    model = tiny_onnx("int8")
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.int32), "whole"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "bias_scale"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["whole", "bias_scale"], ["bias_dq"]))
    gemm.input[2] = "bias_dq"
    (old,) = [tensor for tensor in model.graph.initializer if tensor.name == "bias"]
    model.graph.initializer.remove(old)

    assert stored_weights(model).parameters == _PARAMETERS


def test_a_circle_in_a_damaged_file_ends(tiny_onnx: Any) -> None:
    model = tiny_onnx()
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    model.graph.node.insert(0, helper.make_node("Identity", ["round"], ["round"]))
    conv.input[1] = "round"

    assert stored_weights(model).weight_types == {"fp32": 1}


def test_pixels_in_and_probabilities_out_are_told(tmp_path: Path, tiny_onnx: Callable[..., Any]) -> None:
    content = _saved(tiny_onnx("uint8 nhwc"), tmp_path / "m.onnx").summary()["content"]

    assert content["inputs"] == [{"name": "image", "type": "uint8", "shape": ["batch", 8, 8, 3]}]
    assert content["outputs"] == [{"name": "probabilities", "type": "float32", "shape": ["batch", 2]}]


@pytest.mark.parametrize(("recorded", "sound"), [("int8", True), ("int8-u8s8", True), ("fp32", False), ("fp16", False)])
def test_the_sidecars_precision_is_held_to_the_weights_and_may_say_more(
    tmp_path: Path, tiny_onnx: Any, recorded: str, sound: bool
) -> None:
    path = tmp_path / "m.onnx"
    model = tiny_onnx("int8")
    details: dict[str, Any] = {"precision": recorded}
    write_artifact(path, lambda file: onnx.save(model, file), kind=Kind.ONNX_MODEL, parents={}, details=details)

    findings = inspect_files([path])[0].findings

    assert findings == (() if sound else (f"The sidecar says {recorded}, the file's weights are int8",))


def test_a_file_from_elsewhere_is_sound_and_its_free_sizes_only_cost_the_flops(
    tmp_path: Path, tiny_onnx: Callable[..., Any]
) -> None:
    inspection = _saved(tiny_onnx(side_px="side"), tmp_path / "m.onnx")

    assert inspection.findings == ()
    content = inspection.summary()["content"]
    assert content["inputs"][0]["shape"] == ["batch", 3, "side", "side"]
    assert content["nominal_flop"] is None
    assert any("FLOPs cannot be counted" in line for line in inspection.lines())


def test_external_data_are_named_and_a_missing_file_is_a_finding(tmp_path: Path, tiny_onnx: Any) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(tiny_onnx(), path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    beside = path.with_name("m.onnx.data")

    (whole,) = inspect_files([path])
    assert whole.summary()["content"]["external_data"] == [{"path": "m.onnx.data", "size_bytes": beside.stat().st_size}]
    assert whole.findings == ()
    beside.unlink()
    (broken,) = inspect_files([path])
    assert broken.findings == ("Weights lie in m.onnx.data, which is not beside the file",)


@pytest.mark.parametrize("location", ["../elsewhere.bin", "/etc/hostname"])
def test_external_data_outside_the_folder_are_a_finding_and_not_looked_at(
    tmp_path: Path, tiny_onnx: Any, location: str
) -> None:
    model = tiny_onnx()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())

    (inspection,) = inspect_files([path])

    assert inspection.findings == (f"Weights are said to lie in {location}, outside the folder of the file",)
    assert inspection.summary()["content"]["external_data"] == [{"path": location, "size_bytes": None}]
