"""How much a network of an ONNX file multiplies: the work of one image, by which runtimes of all kinds are judged.

One multiply-add (MAC) is two FLOP. Only convolutions and matrix products are counted, as everybody does: the rest of
these networks is below 0.3 per cent. Two figures:

nominal    every tap of every kernel, what `torch.utils.flop_counter` and most papers count;
effective  without the taps that fall on a convolution's own zero padding, which a good kernel never multiplies. For
           ResNet-18 at 224 pixels it is 7 per cent less, so a share of the machine's peak must be taken of this one.

Shapes decide, not types: float16, bfloat16 and quantised files (QuantizeLinear and DequantizeLinear around the
operators, weights included) give the figures of the float32 file. The weights themselves are never read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from harness.core.errors import ArtifactError
from harness.core.onnx_files import MULTIPLYING, STANDARD_DOMAINS, model_from_onnx

FLOP_PER_MAC = 2
# These multiply too, and none of our networks has them: they are named where met, so that a sum is never silently low.
_NOT_COUNTED = frozenset(
    {"Attention", "ConvTranspose", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan"}
)
# Shapes that a graph computes come from tensors of a few numbers; larger ones are weights, whose values say nothing.
_MOST_SHAPE_VALUES = 64
_REMEDY = "FLOPs need every shape but the batch: export the model with a fixed image size."

_Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ModelFlops:
    """The work of one image. `not_counted` are operators of the file that multiply, too, and are in neither sum."""

    nominal_macs: int
    effective_macs: int
    not_counted: tuple[str, ...]

    @property
    def nominal_flop(self) -> int:
        return FLOP_PER_MAC * self.nominal_macs

    @property
    def effective_flop(self) -> int:
        return FLOP_PER_MAC * self.effective_macs


def flops_from_onnx(path: Path) -> ModelFlops:
    """Count the work of one image in an ONNX file; external data is not read.

    Raises ArtifactError where the file is no ONNX or a shape cannot be told.
    """
    return flops_from_model(model_from_onnx(path))


def flops_from_model(model: Any) -> ModelFlops:
    """Count the work of one image in a ModelProto, which is left as it is.

    A free batch is taken as 1, a fixed one is divided by. Raises ArtifactError where a shape cannot be told.
    """
    skeleton = _skeleton(model)
    batch_size = _fix_batch(skeleton)
    shapes = _inferred_shapes(skeleton)
    nodes = [node for node in skeleton.graph.node if node.domain in STANDARD_DOMAINS]
    macs = [_macs(node, shapes) for node in nodes if node.op_type in MULTIPLYING]
    return ModelFlops(
        nominal_macs=sum(nominal for nominal, _ in macs) // batch_size,
        effective_macs=sum(effective for _, effective in macs) // batch_size,
        not_counted=tuple(sorted({node.op_type for node in nodes} & _NOT_COUNTED)),
    )


def _skeleton(model: Any) -> Any:
    """Return a copy of a model without the values of its weights: shape inference copies all it is given."""
    import onnx
    from onnx.inliner import inline_local_functions

    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name
    for name in ("node", "input", "output"):
        getattr(graph, name).extend(getattr(model.graph, name))
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= _MOST_SHAPE_VALUES:
            graph.initializer.append(tensor)
        else:
            graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    # What the file declares of its outputs may hold the free batch; it is inferred anew.
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return inline_local_functions(skeleton) if skeleton.functions else skeleton


def _fix_batch(model: Any) -> int:
    """Make the first dimension of every input a number, 1 where it was free, and return the batch size."""
    stored = {tensor.name for tensor in model.graph.initializer}
    batch_size = 1
    for each in model.graph.input:
        dimensions = each.type.tensor_type.shape.dim
        if each.name in stored or not dimensions:
            continue
        if dimensions[0].dim_value < 1:
            dimensions[0].dim_value = 1
        batch_size = int(dimensions[0].dim_value)
    return batch_size


def _inferred_shapes(model: Any) -> dict[str, _Shape]:
    """Return the shapes of all tensors that have one without free dimensions."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ArtifactError(f"The FLOPs cannot be counted: {error}", hint=_REMEDY) from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor_type = value.type.tensor_type
        shape = tuple(int(dimension.dim_value) for dimension in tensor_type.shape.dim)
        if tensor_type.HasField("shape") and all(shape):
            shapes.setdefault(value.name, shape)
    return shapes


def _macs(node: Any, shapes: Mapping[str, _Shape]) -> tuple[int, int]:
    """Return nominal and effective multiply-adds of a node."""
    data_index, weight_index = MULTIPLYING[node.op_type]
    names = (node.input[data_index], node.input[weight_index], node.output[0])
    unknown = [name for name in names if name not in shapes]
    if unknown:
        raise ArtifactError(
            f"The FLOPs cannot be counted: the shape of {unknown[0]} at {node.op_type} {node.name!r} is not known.",
            hint=_REMEDY,
        )
    data, weight, output = (shapes[name] for name in names)
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "Conv" in node.op_type:
        return _conv_macs(attributes, data, weight, output)
    transposed = "transA" in attributes and attributes["transA"].i
    inner = data[0] if transposed else data[-1]
    macs = prod(output) * inner
    return macs, macs


def _conv_macs(attributes: Mapping[str, Any], data: _Shape, weight: _Shape, output: _Shape) -> tuple[int, int]:
    """Count a convolution: data (n, c, *sizes), weight (outputs, c / groups, *kernel), output (n, outputs, *sizes)."""
    axes = len(data) - 2
    strides, dilations = (_integers(attributes, name, [1] * axes) for name in ("strides", "dilations"))
    begins = _paddings_before(attributes, data[2:], weight[2:], output[2:], strides, dilations)
    each_position = output[0] * output[1] * weight[1]
    touching = [
        _taps_inside(*axis) for axis in zip(data[2:], weight[2:], output[2:], begins, strides, dilations, strict=True)
    ]
    return each_position * prod(output[2:]) * prod(weight[2:]), each_position * prod(touching)


def _integers(attributes: Mapping[str, Any], name: str, default: Sequence[int]) -> Sequence[int]:
    return list(attributes[name].ints) if name in attributes else default


def _paddings_before(
    attributes: Mapping[str, Any], sizes: _Shape, kernel: _Shape, outputs: _Shape, strides: Any, dilations: Any
) -> list[int]:
    """Return the padding before the first value of each axis."""
    mode = attributes["auto_pad"].s if "auto_pad" in attributes else b"NOTSET"
    if mode in {b"SAME_UPPER", b"SAME_LOWER"}:
        totals = [
            max(0, (output - 1) * stride + (taps - 1) * dilation + 1 - size)
            for size, taps, output, stride, dilation in zip(sizes, kernel, outputs, strides, dilations, strict=True)
        ]
        return [total // 2 for total in totals]  # An odd one lies before or after: mirrored, the count is the same.
    nothing = [0] * len(sizes)
    return nothing if mode == b"VALID" else list(_integers(attributes, "pads", nothing))[: len(sizes)]


def _taps_inside(size: int, taps: int, outputs: int, begin: int, stride: int, dilation: int) -> int:
    """Count the pairs of output position and tap, along one axis, that meet a value and not padding."""
    positions: Iterable[int] = (
        output * stride + tap * dilation - begin for output in range(outputs) for tap in range(taps)
    )
    return sum(0 <= position < size for position in positions)
