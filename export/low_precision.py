"""float32 ONNX -> float16 or bfloat16 throughout, with float32 at input and output.

Ours, because no converter does both right for these graphs: one rounds weights below 1e-7 up to 1e-7, one leaves the
nodes out of order, and torch's own export of a bfloat16 network mixes types. The networks hold Conv, Relu, Add,
pooling and Gemm only, so a conversion is: every weight rounded once, every value in between typed anew, a Cast at
either end.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.core.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir

LowPrecision = Literal["fp16", "bf16"]
# The first opset in which Conv and pooling take bfloat16; float16 needs no other than the exporter's.
_BF16_OPSET = 22


def low_precision_model(source: Path, precision: LowPrecision) -> onnx_ir.Model:
    """Return the model of `source` in `precision`; raise ExportError where a weight lies beyond its range."""
    import onnx_ir

    model = onnx_ir.load(source)
    if precision == "bf16":
        model = _at_opset(model, _BF16_OPSET)
    low_type = onnx_ir.DataType.FLOAT16 if precision == "fp16" else onnx_ir.DataType.BFLOAT16
    graph = model.graph
    _convert_weights(graph, low_type, source, precision)
    for node in graph:
        for value in node.outputs:
            if value.dtype == onnx_ir.DataType.FLOAT:
                value.type = onnx_ir.TensorType(low_type)
    _cast_inputs(graph, low_type)
    _cast_outputs(graph)
    return model


def _at_opset(model: onnx_ir.Model, opset: int) -> onnx_ir.Model:
    from onnxscript import version_converter

    version_converter.convert_version(model, target_version=opset)
    if model.opset_imports[""] != opset:
        raise ExportError(
            f"The model could not be brought to opset {opset}, which bfloat16 needs.",
            hint="The versions of torch, onnx and onnxscript must be those of constraints.txt: `make setup`.",
        )
    return model


def _convert_weights(graph: onnx_ir.Graph, low_type: onnx_ir.DataType, source: Path, precision: str) -> None:
    import onnx_ir

    for value in graph.initializers.values():
        if value.dtype != onnx_ir.DataType.FLOAT or value.const_value is None:
            continue
        wide = value.const_value.numpy()
        with np.errstate(over="ignore"):  # Told below, with the tensor's name.
            low = wide.astype(low_type.numpy())
        if not np.isfinite(low.astype(np.float32)).all() and np.isfinite(wide).all():
            raise ExportError(
                f"{source.name}: {value.name} reaches {np.abs(wide).max():.4g}, which {precision} cannot hold.",
                hint="Export this checkpoint in bf16, whose range is float32's, or in fp32.",
            )
        value.const_value = onnx_ir.Tensor(low, name=value.name)
        value.type = onnx_ir.TensorType(low_type)


def _cast_inputs(graph: onnx_ir.Graph, low_type: onnx_ir.DataType) -> None:
    import onnx_ir

    for value in graph.inputs:
        if value.dtype != onnx_ir.DataType.FLOAT:
            continue
        uses = tuple(value.uses())
        cast = onnx_ir.node("Cast", [value], {"to": low_type.value})
        low = cast.outputs[0]
        low.name, low.shape, low.type = f"{value.name}_low", value.shape, onnx_ir.TensorType(low_type)
        for node, index in uses:
            node.replace_input_with(index, low)
        graph.insert_before(graph[0], cast)


def _cast_outputs(graph: onnx_ir.Graph) -> None:
    import onnx_ir

    for index, value in enumerate(graph.outputs):
        wide = onnx_ir.Value(name=value.name, type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT), shape=value.shape)
        value.name = f"{value.name}_low"
        graph.append(onnx_ir.node("Cast", [value], {"to": onnx_ir.DataType.FLOAT.value}, outputs=[wide]))
        graph.outputs[index] = wide
