"""`--int8 auto` on networks that int8 ruins, each by one layer that is known."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.mixed_int8 import Validation, _set_sizes, layers_kept_in_float
from export.quantisation import measure_ranges, write_quantised
from harness.core.contract import Preprocessing
from harness.core.errors import ExportError
from harness.core.progress import SILENT
from harness.data.preprocessing import images_from_pixels

_PREPROCESSING = Preprocessing(resize_px=16, crop_px=16, mean=(0, 0, 0), std=(1, 1, 1))
_COUNT = 40
_NONE_BHWC = np.zeros((0, 16, 16, 3), dtype=np.uint8)


def _network(hard: str) -> Any:
    """Answer the brightest channel. A fourth channel that counts for nothing is 1000 times as large: in the activations
    between conv1 and conv2, or in the weights of conv2. Rounded to int8 beside it, the other three are gone.
    """
    eye = np.eye(3, dtype=np.float32)
    first, second = np.zeros((4, 3, 1, 1), np.float32), np.zeros((3, 4, 1, 1), np.float32)
    first[:3, :, 0, 0] = second[:, :3, 0, 0] = eye
    if hard == "activations":
        first[3] = 1000
    if hard == "weights":
        second[:, 3] = 1000
    smooth = np.zeros((3, 3, 3, 3), np.float32)
    smooth[range(3), range(3)] = 1 / 9
    weights = {"w1": first, "b1": np.zeros(4), "w2": second, "w3": smooth, "b": np.zeros(3), "wh": eye}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["a"], name="conv1"),
        helper.make_node("Relu", ["a"], ["a_relu"], name="relu1"),
        helper.make_node("Conv", ["a_relu", "w2", "b"], ["c"], name="conv2"),
        helper.make_node("Relu", ["c"], ["c_relu"], name="relu2"),
        helper.make_node("Conv", ["c_relu", "w3", "b"], ["d"], name="conv3", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["d"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "wh", "b"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "hard",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


class _Hard:
    """A network, its measured ranges, and a validation split that it answers without an error."""

    def __init__(self, folder: Path, hard: str, form: Any) -> None:
        self.folder, self.form, self.source = folder, form, folder / "fp32.onnx"
        onnx.save(_network(hard), self.source)
        pixels_bhwc = np.random.default_rng(0).integers(0, 120, (_COUNT, 16, 16, 3)).astype(np.uint8)
        for index in range(_COUNT):
            pixels_bhwc[index, ..., index % 3] += 60
        session = onnxruntime.InferenceSession(str(self.source), providers=["CPUExecutionProvider"])
        (golden_bc,) = session.run(None, {"image": images_from_pixels(pixels_bhwc, _PREPROCESSING)})
        assert (golden_bc.argmax(axis=1) == np.arange(_COUNT) % 3).all()
        with SILENT.task("", total=None) as task:
            measure_ranges(self.source, folder / "ranges.json", pixels_bhwc, _PREPROCESSING, "minmax", task)
        self.validation = Validation(
            pixels_bhwc=pixels_bhwc, golden_bc=golden_bc, preprocessing=_PREPROCESSING, label_mode="multiclass"
        )
        ranges = folder / "ranges.json"
        self.write = partial(write_quantised, self.source, form=form, ranges=ranges, method="minmax")

    def search(self, validation: Validation | None = None) -> Any:
        validation = validation or self.validation
        return layers_kept_in_float(self.source, self.form, self.write, validation, self.folder, SILENT)


@pytest.fixture(params=["int8", "int8-u8s8"])
def form(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_layer_with_hard_weights_is_found_and_alone_kept_in_float(tmp_path: Path, form: Any) -> None:
    layers = _Hard(tmp_path, "weights", form).search()
    assert layers.names == ("conv2",)
    assert [count for count, _ in layers.tried] == [0, 1]
    assert layers.tried[0][1] < 0.5
    assert layers.tried[1][1] == 1.0


def test_an_activation_of_wide_range_is_let_through_in_float(tmp_path: Path, form: Any) -> None:
    hard = _Hard(tmp_path, "activations", form)
    layers = hard.search()
    # conv1 makes it and conv2 reads it: alone, each does the same harm.
    assert set(layers.names) <= {"conv1", "conv2"}
    assert layers.tried[-1] == (len(layers.names), 1.0)
    assert all(share < 0.5 for _, share in layers.tried[:-1])
    reader = tmp_path / "reader.onnx"
    hard.write(reader, float_nodes=["conv2"])
    assert hard.validation.agreement(reader) == 1.0


def test_a_network_that_int8_does_not_harm_keeps_nothing_in_float_and_is_tried_once(tmp_path: Path, form: Any) -> None:
    layers = _Hard(tmp_path, "nothing", form).search()
    assert layers.names == ()
    assert layers.tried == ((0, 1.0),)


def test_where_no_set_of_layers_helps_the_error_has_every_share(tmp_path: Path) -> None:
    hard = _Hard(tmp_path, "nothing", "int8")
    others = replace(hard.validation, golden_bc=np.roll(hard.validation.golden_bc, 1, axis=1))
    with pytest.raises(ExportError, match=r"0: 0\.0 %, 1: 0\.0 %, 2: 0\.0 %, 3: 0\.0 %") as caught:
        hard.search(others)
    assert "fp16" in caught.value.hint


def test_without_a_validation_split_nothing_can_be_chosen(tmp_path: Path) -> None:
    hard = _Hard(tmp_path, "nothing", "int8")
    empty = replace(hard.validation, pixels_bhwc=_NONE_BHWC, golden_bc=hard.validation.golden_bc[:0])
    with pytest.raises(ExportError, match="no validation split") as caught:
        hard.search(empty)
    assert "--int8 all" in caught.value.hint


def test_the_sizes_grow_by_half_and_leave_a_layer_to_quantise() -> None:
    assert _set_sizes(21) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert _set_sizes(4) == [1, 2, 3]
    assert _set_sizes(2) == [1]
