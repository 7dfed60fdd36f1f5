"""Bugs around the network: what happens to the pixels before it and to the logits behind it.

The variants with normalisation and probabilities inside the graph; names of tensors are those of
export/deployment_graph.py. Films are grey in three equal channels, so that BGR for RGB changes nothing but the answer
to the made-up image, which is coloured; the colour run has the same films in false colours.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
from onnx import helper

from tests.mutants.bed import NotApplicableError
from tests.mutants.graphs import (
    Change,
    Model,
    backwards,
    change_array,
    constant,
    insert_after,
    metadata_of,
    node_of,
    set_attribute,
)
from tests.mutants.mutant import AGREEMENT, FP32, PAIR, Mutant, graph_mutant
from tests.mutants.weights import swap_classes

_FILE = "fp32-uint8in-prob.onnx"
_INT8 = "int8-uint8in-prob.onnx"
_NUMERIC = f"{PAIR}|{FP32}"


def _set(name: str, value: float | tuple[float, ...]) -> Change:
    return partial(change_array, name=name, change=lambda _: np.float32(value))


def _transposed(model: Model) -> None:
    set_attribute(node_of(model, "Transpose"), "perm", [0, 3, 2, 1])


def _read_as_planes(model: Model) -> None:
    """Take the bytes of [h, w, 3] for [3, h, w]: a reshape where a transposition is needed."""
    node = node_of(model, "Transpose")
    side = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    node.op_type = "Reshape"
    del node.attribute[:]
    node.input.append(constant(model, "planes_shape", np.array([-1, 3, side, side], dtype=np.int64)))


def _resized(model: Model, shares: tuple[float, ...], mode: str) -> None:
    """Resize the images by one share after the other, back to their size in the end."""
    for number, share in enumerate(shares):
        scales = constant(model, f"scales_{number}", np.array([1, 1, share, share], dtype=np.float32))

        def nodes(given: str, wanted: str, scales: str = scales) -> list[onnx.NodeProto]:
            return [helper.make_node("Resize", [given, "", scales], [wanted], mode=mode)]

        insert_after(model, "image" if number == 0 else "image_changed", nodes)


def _cropped(model: Model) -> None:
    """Keep the middle three quarters and enlarge them: resize and crop in the wrong order."""
    side = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    cut = side // 8
    corners = {"start": [cut, cut], "end": [side - cut] * 2, "axis": [2, 3]}
    ends = [constant(model, f"crop_{name}", np.array(value, dtype=np.int64)) for name, value in corners.items()]
    scale = side / (side - 2 * cut)
    sizes = constant(model, "crop_scales", np.array([1, 1, scale, scale], dtype=np.float32))

    def nodes(given: str, wanted: str) -> list[onnx.NodeProto]:
        crop = helper.make_node("Slice", [given, *ends], ["cropped"])
        return [crop, helper.make_node("Resize", ["cropped", "", sizes], [wanted], mode="linear")]

    insert_after(model, "image", nodes)


def _normalised_twice(model: Model) -> None:
    """Normalise in the graph what the caller was told to hand over normalised already: once more."""

    def nodes(given: str, wanted: str) -> list[onnx.NodeProto]:
        centred = helper.make_node("Sub", [given, mean], ["again_centred"])
        return [centred, helper.make_node("Div", ["again_centred", std], [wanted])]

    mean = constant(model, "again_mean", np.array([0.485, 0.456, 0.406], "f").reshape(1, 3, 1, 1))
    std = constant(model, "again_std", np.array([0.229, 0.224, 0.225], "f").reshape(1, 3, 1, 1))
    insert_after(model, "image", nodes)


def _softmax_over_the_batch(model: Model) -> None:
    set_attribute(node_of(model, "Softmax"), "axis", 0)


def _softmax_twice(model: Model) -> None:
    insert_after(model, "probabilities", lambda given, wanted: [helper.make_node("Softmax", [given], [wanted], axis=1)])


def _sigmoid(model: Model) -> None:
    node = node_of(model, "Softmax")
    node.op_type = "Sigmoid"
    del node.attribute[:]


def _least_instead_of_most(model: Model) -> None:
    node_of(model, "ArgMax").op_type = "ArgMin"


def _scale_twice(model: Model) -> None:
    """Divide the logits by the temperature although the file gives logits, which the caller divides by it."""
    point = json.loads(metadata_of(model)["cxr_harness.operating_point"])
    if point["temperature"] is None:
        raise NotApplicableError("the run has no temperature")
    temperature = constant(model, "temperature_once_more", np.float32(point["temperature"]))
    insert_after(model, "logits", lambda given, wanted: [helper.make_node("Div", [given, temperature], [wanted])])


def _count_from_one(model: Model) -> None:
    one = constant(model, "one", np.int64(1))
    insert_after(model, "answer", lambda given, wanted: [helper.make_node("Add", [given, one], [wanted])])


def _mutant(name: str, *changes: Change, file: str = _FILE, reason: str = _NUMERIC) -> Mutant:
    return graph_mutant(name, file, *changes, reason=reason)


_COLOURS = partial(backwards, tensor="pixels", axis=3)
_COARSE = f"{PAIR}|{AGREEMENT}"
_TEMPERATURE = f"{PAIR}|{FP32}|temperature"
MUTANTS = (
    _mutant("wrong mean", _set("input_mean", 0.0)),
    _mutant("wrong deviation", _set("input_std", 1.0)),
    _mutant("mean and deviation of another habit (0.5)", _set("input_mean", 0.5), _set("input_std", 0.5)),
    _mutant("division by 255 missing", _set("input_largest_pixel", 1.0)),
    _mutant("normalised twice", _normalised_twice),
    _mutant("wrong mean", _set("input_mean", 0.0), file=_INT8, reason=_COARSE),
    _mutant("BGR for RGB, grey films", _COLOURS),
    replace(_mutant("BGR for RGB, films in colours", _COLOURS), data="colour"),
    _mutant("height and width exchanged", _transposed),
    _mutant("height, width, channel read as channel, height, width", _read_as_planes),
    _mutant("mirrored", partial(backwards, tensor="pixels", axis=2)),
    _mutant("upside down", partial(backwards, tensor="pixels", axis=1)),
    _mutant("upside down", partial(backwards, tensor="pixels", axis=1), file=_INT8, reason=_COARSE),
    _mutant("resized to half and back", partial(_resized, shares=(0.5, 2.0), mode="nearest")),
    _mutant("cropped too tightly", _cropped),
    _mutant("temperature missing", _set("output_temperature", 1.0), reason=_TEMPERATURE),
    _mutant("temperature missing", _set("output_temperature", 1.0), file=_INT8, reason=_TEMPERATURE),
    _mutant("temperature applied twice", _scale_twice, file="fp32.onnx"),
    _mutant("temperature applied twice", _scale_twice, file="int8.onnx", reason=_TEMPERATURE),
    _mutant("softmax over the batch", _softmax_over_the_batch, reason=f"{PAIR}|add up to 1"),
    _mutant("softmax twice", _softmax_twice, reason=_NUMERIC),
    _mutant("softmax twice", _softmax_twice, file=_INT8, reason=_TEMPERATURE),
    _mutant("sigmoid for softmax", _sigmoid, reason=f"{PAIR}|add up to 1"),
    _mutant("the least likely class answered", _least_instead_of_most, reason="own probabilities"),
    _mutant("classes counted from 1", _count_from_one, reason="own probabilities"),
    _mutant("two classes swapped", swap_classes, file=_INT8, reason=_COARSE),
)
