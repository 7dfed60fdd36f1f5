"""In what types the weights of an ONNX file are, told by following each weight input back to what is stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

from harness.core.onnx_files import MULTIPLYING, STANDARD_DOMAINS

# From the narrowest: a file has the precision of its narrowest weights, as a head may stay wide in each of them.
_PRECISIONS = {
    "INT4": "int4",
    "UINT4": "int4",
    "FLOAT8E4M3FN": "fp8",
    "FLOAT8E5M2": "fp8",
    "INT8": "int8",
    "UINT8": "int8",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "FLOAT": "fp32",
    "DOUBLE": "fp64",
}
# What may stand between a stored weight and its operator without changing what it is.
_PASSING = frozenset({"Cast", "Identity", "QuantizeLinear", "DequantizeLinear", "Reshape", "Squeeze", "Transpose"})
# Inputs that are scales and zero points: no parameters.
_SCALES = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
}


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """`weight_types` counts Conv, Gemm and MatMul by the type of their weights; `precision` is None without any.

    `activation_types` are what QuantizeLinear makes of activations; `parameters` counts stored values: those of folded
    batch norms are gone, constants of a preprocessing inside the graph are there, scales and zero points are not.
    """

    precision: str | None
    weight_types: dict[str, int]
    activation_types: tuple[str, ...]
    parameters: int


def stored_weights(model: Any) -> StoredWeights:
    """Tell types and number of the weights of a ModelProto from declared types and shapes; values are not read."""
    graph = _Graph(model)
    weight_types: Counter[str] = Counter()
    activation_types = set()
    for node in model.graph.node:
        if node.domain not in STANDARD_DOMAINS:
            continue
        if node.op_type in MULTIPLYING:
            weight_type = graph.type_of_weight(node.input[MULTIPLYING[node.op_type][1]])
            if weight_type is not None:
                weight_types[_PRECISIONS.get(weight_type, weight_type.lower())] += 1
        elif node.op_type == "QuantizeLinear" and graph.type_of_weight("".join(node.input[:1])) is None:
            activation_types.add(graph.type_made_by(node))
    return StoredWeights(
        precision=next((name for name in _PRECISIONS.values() if name in weight_types), None),
        weight_types=dict(weight_types),
        activation_types=tuple(sorted(name.lower() for name in activation_types)),
        parameters=graph.parameter_count(),
    )


class _Graph:
    """Stored tensors by name, and the node that made each other tensor."""

    def __init__(self, model: Any) -> None:
        self.nodes = model.graph.node
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.maker = {name: node for node in self.nodes for name in node.output}
        for node in self.nodes:
            if node.op_type == "Constant":
                self.stored |= {name: each.t for each in node.attribute for name in node.output if each.HasField("t")}

    def type_of_weight(self, name: str) -> str | None:
        """Follow a tensor back to storage; None where it depends on the model's input."""
        found = None
        for _ in self.nodes:  # A path is no longer than that, and a damaged file may have a circle.
            node = self.maker.get(name)
            if name in self.stored or node is None or node.op_type not in _PASSING:
                break
            if node.op_type == "DequantizeLinear":
                found = None  # What it reads decides, not what its result is cast to.
            elif node.op_type == "QuantizeLinear":  # Wide values that are made narrow when the model is loaded.
                found = self.type_made_by(node)
            elif node.op_type == "Cast":
                found = found or type_name(next((each.i for each in node.attribute if each.name == "to"), 0))
            name = node.input[0] if node.input else ""
        return found or type_name(self.stored[name].data_type) if name in self.stored else None

    def type_made_by(self, quantise: Any) -> str:
        """Return the type that a QuantizeLinear makes."""
        for attribute in quantise.attribute:
            if attribute.name == "output_dtype" and attribute.i:
                return type_name(attribute.i)
        zero_point = self.stored.get(quantise.input[2]) if len(quantise.input) > 2 else None
        return "UINT8" if zero_point is None else type_name(zero_point.data_type)

    def parameter_count(self) -> int:
        scales, quantised = set(), set()
        for node in self.nodes:
            scales |= {node.input[i] for i in _SCALES.get(node.op_type, ()) if i < len(node.input)}
            if node.op_type == "DequantizeLinear":  # A bias may be in whole numbers of 32 bits.
                quantised |= set(node.input[:1])
            elif node.op_type == "QLinearConv":
                quantised |= set(node.input[8:])
        return sum(
            prod(tensor.dims)
            for name, tensor in self.stored.items()
            if name not in scales and (type_name(tensor.data_type) in _PRECISIONS or name in quantised)
        )


def type_name(number: int) -> str:
    """Return ONNX's own name of a type, as FLOAT16."""
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(number)) if number in TensorProto.DataType.values() else f"TYPE {number}"
