"""The bare operations whose rate is the ceiling: two convolutions, or one matrix product, and nothing around them.

The convolutions have no padding, so that every tap of them is effective work, and there are two of them, so that the
change of layout at either end weighs less. Weights are random: zeros would cost less power, and a clock that depends
on power would tell too high a ceiling. A quantised graph has QuantizeLinear and DequantizeLinear around each operand,
as the exported models have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bench.ceiling import MeasureCeiling, Operation

CONVOLUTIONS = 2
KERNEL_PX = 3
OPSET, _IR_VERSION = 20, 10
_FLOP_PER_MAC = 2
# A plausible step of int8 activations and weights; the values mean nothing.
_STEP = 0.02


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """An operation ready to be called; `call` returns when it is done."""

    operation: Operation
    precision: str
    flop: int
    call: Callable[[], None]


def work_flop(request: MeasureCeiling, operation: Operation) -> int:
    """Return the work of one call."""
    if operation == "matrix product":
        return _FLOP_PER_MAC * request.matrix_size**3
    sides_px = [request.side_px - layer * (KERNEL_PX - 1) for layer in range(1, CONVOLUTIONS + 1)]
    positions = request.batch_size * sum(side_px**2 for side_px in sides_px)
    return _FLOP_PER_MAC * positions * request.channels**2 * KERNEL_PX**2


def input_shape(request: MeasureCeiling, operation: Operation) -> tuple[int, ...]:
    """Return images [b, c, h, w], or the left matrix."""
    if operation == "matrix product":
        return (request.matrix_size, request.matrix_size)
    return (request.batch_size, request.channels, request.side_px, request.side_px)


def weight_shape(request: MeasureCeiling, operation: Operation) -> tuple[int, ...]:
    """Return weights [outputs, inputs, h, w], or the right matrix."""
    if operation == "matrix product":
        return (request.matrix_size, request.matrix_size)
    return (request.channels, request.channels, KERNEL_PX, KERNEL_PX)


def random_weights(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return weights that keep the size of what passes through them."""
    fan_in = int(np.prod(shape[1:]))
    return np.random.default_rng(0).normal(size=shape, scale=fan_in**-0.5).astype(np.float32)


def operation_model(request: MeasureCeiling, operation: Operation, *, quantised: bool) -> Any:
    """Return the ModelProto of an operation in float32, or quantised to int8."""
    from onnx import TensorProto, helper

    graph = _Graph(quantised=quantised)
    value, shape = "x", weight_shape(request, operation)
    if operation == "matrix product":
        value = graph.node("MatMul", [graph.activation(value), graph.weight(shape, axis=1)])
    else:
        for _ in range(CONVOLUTIONS):
            value = graph.node("Relu", [graph.node("Conv", [graph.activation(value), graph.weight(shape, axis=0)])])
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape(request, operation))
    answer = helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
    made = helper.make_graph(graph.nodes, "ceiling", [image], [answer], graph.tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)


class _Graph:
    """Nodes and tensors while they are collected; every node's output is named by its number."""

    def __init__(self, *, quantised: bool) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._quantised = quantised

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        name = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def activation(self, value: str) -> str:
        if not self._quantised:
            return value
        step, zero = self._tensor(np.float32(_STEP)), self._tensor(np.int8(0))
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [value, step, zero]), step, zero])

    def weight(self, shape: tuple[int, ...], *, axis: int) -> str:
        """Return weights, int8 ones with a step for each output channel along `axis`."""
        weights = random_weights(shape)
        if not self._quantised:
            return self._tensor(weights)
        step = np.abs(weights).max() / 127
        steps, zeros = np.full(shape[axis], step, np.float32), np.zeros(shape[axis], np.int8)
        tensors = [self._tensor(each) for each in (np.rint(weights / step).astype(np.int8), steps, zeros)]
        return self.node("DequantizeLinear", tensors, axis=axis)

    def _tensor(self, values: Any) -> str:
        from onnx import numpy_helper

        name = f"tensor{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name
