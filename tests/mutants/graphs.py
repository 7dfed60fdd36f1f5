"""Small surgery on ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests.mutants.bed import NotApplicableError, vouch

Model = onnx.ModelProto
Change = Callable[[Model], None]


def rewrite(path: Path, *changes: Change) -> None:
    """Change a model and let a fresh sidecar vouch for it; what comes out is valid ONNX."""
    model = onnx.load(path)
    for change in changes:
        change(model)
    onnx.checker.check_model(model, full_check=True)
    vouch(path, lambda temporary: onnx.save(model, temporary))


def array_of(model: Model, name: str) -> NDArray[Any]:
    return numpy_helper.to_array(_tensor(model, name))


def change_array(model: Model, name: str, change: Callable[[NDArray[Any]], Any]) -> None:
    """Replace an initialiser by what `change` makes of a copy of it; type and shape stay."""
    tensor = _tensor(model, name)
    old = numpy_helper.to_array(tensor)
    new = np.empty_like(old)
    new[...] = change(old.copy())
    tensor.CopyFrom(numpy_helper.from_array(new, name))


def _tensor(model: Model, name: str) -> onnx.TensorProto:
    found = [each for each in model.graph.initializer if each.name == name]
    if not found:
        raise NotApplicableError(f"the file has no {name}")
    return found[0]


def node_of(model: Model, operator: str, index: int = 0) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == operator][index]


def constant(model: Model, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def insert_after(model: Model, tensor: str, nodes: Callable[[str, str], list[onnx.NodeProto]]) -> None:
    """Put nodes between a tensor and all who read it: `nodes(given, wanted)` read the one and make the other.

    The name of an output stays that of the output; everywhere else the tensor keeps its name and its readers change.
    """
    graph = model.graph
    changed = f"{tensor}_changed"
    if tensor in {each.name for each in graph.output}:
        for node in graph.node:
            node.output[:] = [changed if name == tensor else name for name in node.output]
            node.input[:] = [changed if name == tensor else name for name in node.input]
        graph.node.extend(nodes(changed, tensor))
        return
    for node in graph.node:
        node.input[:] = [changed if name == tensor else name for name in node.input]
    makers = [index for index, node in enumerate(graph.node) if tensor in node.output]
    position = makers[0] + 1 if makers else 0
    everything = list(graph.node)
    del graph.node[:]
    graph.node.extend([*everything[:position], *nodes(tensor, changed), *everything[position:]])


def backwards(model: Model, tensor: str, axis: int) -> None:
    """Turn one axis of a tensor around."""
    ends = [
        constant(model, f"{tensor}_turned_{name}", np.array([value], dtype=np.int64))
        for name, value in (("start", -1), ("end", -(2**62)), ("axis", axis), ("step", -1))
    ]
    insert_after(model, tensor, lambda given, wanted: [helper.make_node("Slice", [given, *ends], [wanted])])


def metadata_of(model: Model) -> dict[str, str]:
    return {each.key: each.value for each in model.metadata_props}


def change_metadata(model: Model, **values: str) -> None:
    """Change entries of the file's own metadata, named without their prefix."""
    helper.set_model_props(model, metadata_of(model) | {f"cxr_harness.{key}": value for key, value in values.items()})
