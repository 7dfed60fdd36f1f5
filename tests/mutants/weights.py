"""Bugs in the network itself: weights that were scaled, lost, mirrored or mixed up, layers that were left out."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.mutants.bed import Bed, vouch
from tests.mutants.graphs import Model, array_of, change_array, node_of, set_attribute
from tests.mutants.mutant import AGREEMENT, FP32, PAIR, Mutant, graph_mutant

_NUMERIC = f"{PAIR}|{FP32}"
_COARSE = f"{PAIR}|{AGREEMENT}"
_MIDDLE = "layer3.0.conv1.weight"


def _scale_a_channel(model: Model, factor: float) -> None:
    def scaled(weights: NDArray[Any]) -> NDArray[Any]:
        weights[7] *= factor
        return weights

    change_array(model, "conv1.weight", scaled)


def swap_classes(model: Model) -> None:
    """Exchange the first two rows of the head, whatever its precision."""
    for each in list(model.graph.initializer):
        if each.name.startswith("fc.0.") and list(each.dims)[:1] == [3]:
            change_array(model, each.name, lambda rows: rows[[1, 0, 2]])


def _zero(model: Model, name: str) -> None:
    change_array(model, name, np.zeros_like)


def add_to_a_class(model: Model, amount: float) -> None:
    def shifted(bias: NDArray[Any]) -> NDArray[Any]:
        bias[0] += amount
        return bias

    change_array(model, "fc.0.bias", shifted)


def _lose_biases(model: Model) -> None:
    for each in list(model.graph.initializer):
        if each.name.endswith("weight_bias"):
            change_array(model, each.name, np.zeros_like)


def _change_kernels(model: Model, axes: tuple[int, ...], *, transposed: bool = False) -> None:
    for each in list(model.graph.initializer):
        if len(each.dims) == 4:
            change_array(model, each.name, lambda w: w.swapaxes(2, 3) if transposed else np.flip(w, axes))


def _mix_channels(model: Model) -> None:
    """Exchange input channels of a layer, as a wrong order of concatenation does."""
    change_array(model, _MIDDLE, lambda weights: np.roll(weights, 1, axis=1))


def _pad_like_tensorflow(model: Model) -> None:
    """Pad strided convolutions at the end rather than around: TensorFlow's SAME."""
    for node in model.graph.node:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        pads = attributes.get("pads")
        if node.op_type == "Conv" and attributes.get("strides") == [2, 2] and pads and any(pads):
            total = pads[0] + pads[2]
            before = (total - 1) // 2
            set_attribute(node, "pads", [before, before, total - before, total - before])


def _lose_a_relu(model: Model) -> None:
    node_of(model, "Relu", 9).op_type = "Identity"


def _lose_a_skip(model: Model) -> None:
    """Let an addition give its first input only."""
    node = node_of(model, "Add", 3)
    node.op_type = "Identity"
    del node.input[1:]


def _untrained(model: Model) -> None:
    """Leave the weights that the exporter started from: random numbers of the right size."""
    random = np.random.default_rng(0)
    for each in list(model.graph.initializer):
        if len(each.dims) == 4:
            change_array(model, each.name, lambda w: random.normal(0, w.std(), w.shape))


def _other_weights(bed: Bed) -> None:
    """Give every tensor of the file the values of another checkpoint's, under our name and metadata."""
    other = onnx.load(bed.other.export_folder / bed.file)
    model = onnx.load(bed.path)
    for each in list(model.graph.initializer):
        if numpy_helper.to_array(each).dtype.kind == "f":
            change_array(model, each.name, lambda _, name=each.name: array_of(other, name))
    vouch(bed.path, lambda temporary: onnx.save(model, temporary))


def _mutant(name: str, change: Any, *, file: str = "fp32.onnx", reason: str = _NUMERIC) -> Mutant:
    return graph_mutant(name, file, change, reason=reason)


MUTANTS = (
    _mutant("a channel x 1.0001", partial(_scale_a_channel, factor=1.0001)),
    _mutant("a channel x 8", partial(_scale_a_channel, factor=8)),
    _mutant("a channel x 8", partial(_scale_a_channel, factor=8), file="fp16.onnx", reason=_COARSE),
    _mutant("two classes swapped", swap_classes),
    _mutant("two classes swapped", swap_classes, file="fp16.onnx", reason=_COARSE),
    _mutant("a layer zeroed", partial(_zero, name=_MIDDLE)),
    _mutant("the head zeroed", partial(_zero, name="fc.0.weight"), file="fp16.onnx", reason=_COARSE),
    _mutant("bias + 1 for a class", partial(add_to_a_class, amount=1.0)),
    _mutant("bias + 1 for a class", partial(add_to_a_class, amount=1.0), file="fp16.onnx", reason=_COARSE),
    _mutant("bias + 1 for a class", partial(add_to_a_class, amount=1.0), file="int8.onnx", reason=_COARSE),
    _mutant("biases of all convolutions lost", _lose_biases),
    _mutant("kernels mirrored", partial(_change_kernels, axes=(2, 3))),
    _mutant("kernels transposed", partial(_change_kernels, axes=(), transposed=True)),
    _mutant("channels of a layer in another order", _mix_channels),
    _mutant("padding of another framework", _pad_like_tensorflow),
    _mutant("a ReLU lost", _lose_a_relu),
    _mutant("a skip connection lost", _lose_a_skip),
    _mutant("random weights", _untrained),
    Mutant(
        name="weights of another checkpoint",
        file="fp32.onnx",
        damage=_other_weights,
        steps=("numeric",),
        reason=_NUMERIC,
    ),
    Mutant(
        name="weights of another checkpoint",
        file="fp16.onnx",
        damage=_other_weights,
        steps=("numeric",),
        reason=_COARSE,
    ),
)
