"""The counts are held to torch's counter, to a convolution counted by hand, and to what ONNX Runtime really adds up."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from harness.core.errors import ArtifactError
from harness.core.onnx_flops import flops_from_model, flops_from_onnx

_TINY = {"nominal": 64 * 4 * 3 * 9 + 8, "effective": 22 * 22 * 4 * 3 + 8}


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The network of docs/measuring.md, two classes at 224 pixels, and its ONNX file with a free batch."""
    from torchvision import models

    network = models.resnet18(weights=None, num_classes=2).eval()
    path = tmp_path_factory.mktemp("resnet18") / "resnet18.onnx"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, 224, 224),),
            dynamo=True,
            input_names=["image"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    program.save(path)
    return network, path


def test_resnet18_has_the_documented_figures_and_those_of_torchs_own_counter(resnet18: tuple[Any, Path]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    network, path = resnet18
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 224, 224))
    flops = flops_from_onnx(path)

    assert flops.nominal_flop == counter.get_total_flops() == 2 * flops.nominal_macs == 3_627_124_736
    assert round(flops.effective_macs / 1e9, 4) == 1.6799
    assert flops.effective_flop == 2 * flops.effective_macs
    assert flops.not_counted == ()


def test_a_padded_convolution_is_counted_as_by_hand(tiny_onnx: Callable[..., Any]) -> None:
    # 8 by 8 padded by 1 under a kernel of 3: along an axis 2 + 6 * 3 + 2 = 22 of 24 taps meet the image.
    flops = flops_from_model(tiny_onnx())

    assert flops.nominal_macs == 8 * 8 * 4 * 3 * 3 * 3 + 4 * 2 == _TINY["nominal"]
    assert flops.effective_macs == 22 * 22 * 4 * 3 + 4 * 2 == _TINY["effective"]


@pytest.mark.parametrize("variant", ["fp16", "bf16", "int8", "int8 of float weights", "uint8 nhwc"])
def test_every_precision_and_input_gives_the_figures_of_float32(variant: str, tiny_onnx: Callable[..., Any]) -> None:
    model = tiny_onnx(variant)
    onnx.checker.check_model(model, full_check=True)

    flops = flops_from_model(model)

    assert (flops.nominal_macs, flops.effective_macs) == (_TINY["nominal"], _TINY["effective"])


@pytest.mark.parametrize("batch", [1, 4, "batch", "n"])
def test_the_figures_are_of_one_image_at_any_batch(batch: int | str, tiny_onnx: Callable[..., Any]) -> None:
    assert flops_from_model(tiny_onnx(batch=batch)).nominal_macs == _TINY["nominal"]


def test_the_model_is_left_as_it_was(tiny_onnx: Callable[..., Any]) -> None:
    model = tiny_onnx()
    before = model.SerializeToString()
    flops_from_model(model)

    assert model.SerializeToString() == before


def test_weights_in_a_missing_file_do_not_matter(tmp_path: Path, tiny_onnx: Callable[..., Any]) -> None:
    path = tmp_path / "fp32.onnx"
    onnx.save(tiny_onnx(), path, save_as_external_data=True, location="fp32.onnx.data", size_threshold=0)
    path.with_name("fp32.onnx.data").unlink()

    assert flops_from_onnx(path).effective_macs == _TINY["effective"]


def _conv(size: list[int], weight: list[int], **attributes: Any) -> Any:
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(weight, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("size", "weight", "attributes"),
    [
        ([3, 9, 7], [5, 3, 3, 3], {"pads": [1, 1, 1, 1]}),
        ([3, 9, 7], [5, 3, 3, 3], {"pads": [0, 2, 1, 0]}),
        ([3, 17, 17], [5, 3, 7, 7], {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
        ([4, 9, 9], [6, 2, 3, 3], {"pads": [2, 2, 2, 2], "dilations": [2, 2], "group": 2}),
        ([3, 10, 9], [5, 3, 4, 3], {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),
        ([3, 10, 9], [5, 3, 4, 3], {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
        ([3, 10, 9], [5, 3, 4, 3], {"auto_pad": "VALID"}),
        ([3, 12], [5, 3, 5], {"pads": [4, 0]}),
        ([2, 4, 5, 6], [3, 2, 3, 3, 3], {"pads": [1, 1, 1, 1, 1, 1]}),
    ],
    ids=["same", "one-sided", "stride", "dilated groups", "upper", "lower", "valid", "one axis", "three axes"],
)
def test_the_effective_count_is_what_a_runtime_adds_up(size: list[int], weight: list[int], attributes: Any) -> None:
    # Ones times ones add one for every multiply-add that does not meet padding, and nothing else.
    model = _conv(size, weight, **attributes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": np.ones([1, *size], np.float32)})

    flops = flops_from_model(model)

    assert flops.effective_macs == output.sum()
    assert flops.nominal_macs == output.size * np.prod(weight[1:])


@pytest.mark.parametrize("transposed", [0, 1])
def test_matrix_products_count_the_shared_axis(transposed: int) -> None:
    a, b = ([7, 1], [7, 5]) if transposed else ([1, 7], [7, 5])
    nodes = [
        helper.make_node("Gemm", ["a", "b"], ["c"], transA=transposed),
        helper.make_node("MatMul", ["c", "d"], ["e"]),
    ]
    stored = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("a", a), ("b", b))]
    stored.append(numpy_helper.from_array(np.ones([5, 3], np.float32), "d"))
    output = helper.make_tensor_value_info("e", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(nodes, "products", [], [output], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    assert flops_from_model(model).nominal_macs == 1 * 7 * 5 + 1 * 5 * 3


def test_an_operator_inside_a_function_of_the_file_is_counted(tiny_onnx: Callable[..., Any]) -> None:
    model = tiny_onnx()
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    inner = helper.make_node("Conv", ["a", "b"], ["c"], pads=[1, 1, 1, 1])
    model.functions.append(
        helper.make_function("ours", "Padded", ["a", "b"], ["c"], [inner], [helper.make_opsetid("", 22)])
    )
    model.opset_import.append(helper.make_opsetid("ours", 1))
    conv.CopyFrom(helper.make_node("Padded", list(conv.input), list(conv.output), domain="ours"))

    assert flops_from_model(model).effective_macs == _TINY["effective"]


def test_operators_that_are_not_counted_are_named(tiny_onnx: Callable[..., Any]) -> None:
    model = tiny_onnx()
    model.graph.initializer.append(numpy_helper.from_array(np.ones([4, 4, 2, 2], np.float32), "up"))
    model.graph.node.insert(1, helper.make_node("ConvTranspose", ["conv", "up"], ["larger"]))

    flops = flops_from_model(model)

    assert flops.not_counted == ("ConvTranspose",)
    assert flops.nominal_macs == _TINY["nominal"]


@pytest.mark.parametrize("damage", ["free size", "unknown operator", "no opset"])
def test_a_count_that_is_not_possible_says_why(damage: str, tiny_onnx: Callable[..., Any]) -> None:
    model = tiny_onnx(side_px="side" if damage == "free size" else 8)
    if damage == "unknown operator":
        model.graph.node[0].CopyFrom(helper.make_node("Mystery", ["image", "kernel"], ["conv"], domain="ours"))
        model.graph.node[2].CopyFrom(helper.make_node("Identity", ["pooled"], ["flat"]))
    if damage == "no opset":
        del model.opset_import[:]

    with pytest.raises(ArtifactError, match="FLOPs cannot be counted") as caught:
        flops_from_model(model)
    assert "fixed image size" in caught.value.hint
