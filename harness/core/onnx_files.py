"""ONNX files from anywhere, read so far that their graphs can be walked: weights in other files stay there.

Protobuf reads almost any bytes as some model. What is none, or a damaged one, ends here in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import ArtifactError

# Protobuf of a ModelProto: the IR version, then the tag of one of its other fields.
ONNX_START = re.compile(rb"\x08[\x03-\x1e][\x12\x1a\x22\x28\x32\x3a\x42\x72]")
STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
# Operator -> where its activations and its weights stand among its inputs.
MULTIPLYING: Mapping[str, tuple[int, int]] = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
}


def model_from_onnx(path: Path) -> Any:
    """Return the ModelProto of a file without its external data; raise ArtifactError where it is not ONNX."""
    import onnx
    from google.protobuf.message import DecodeError

    hint = "Export it again: `harness export`."
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ArtifactError(f"{path} is not a readable ONNX file: {error}", hint=hint) from error
    # Protobuf reads many bytes that are no model as an empty one.
    if not model.graph.node or not model.graph.output:
        raise ArtifactError(f"{path} is not an ONNX model: it has no nodes or no outputs.", hint=hint)
    odd = [name for name in _names(model) if not isinstance(name, str)]
    if odd:  # Protobuf hands on as bytes what should be text and is none.
        raise ArtifactError(f"{path} is a damaged ONNX file: the name {odd[0]!r} is not text.", hint=hint)
    short = [node for node in model.graph.node if len(node.input) <= max(MULTIPLYING.get(node.op_type, (-1,)))]
    if short:
        raise ArtifactError(f"{path} is a damaged ONNX file: a {short[0].op_type} lacks inputs.", hint=hint)
    return model


def _names(model: Any) -> Iterator[Any]:
    """Yield all names and texts of a model, but not those of operators' attributes."""
    graph = model.graph
    yield from (model.producer_name, model.producer_version, graph.name)
    yield from (opset.domain for opset in model.opset_import)
    yield from (text for each in model.metadata_props for text in (each.key, each.value))
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for tensor in graph.initializer:
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (dimension.dim_param for dimension in value.type.tensor_type.shape.dim)
