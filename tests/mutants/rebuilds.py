"""Honest rebuilds, none of which may be accused: 13 files exported again, 12 only written otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
from onnx import helper, version_converter

from harness.core.runs import RunDirectory
from tests.mutants.bed import Bed, vouch
from tests.mutants.graphs import Model, node_of

PRECISIONS = ("fp32", "fp16", "int8", "int8-u8s8")
_DEPLOYED = "-uint8in-prob"


@dataclass(frozen=True, kw_only=True)
class Rebuild:
    """A file in a runtime; `rewrite` changes how it is written. None: it was exported again, in another process."""

    name: str
    file: str
    backend: str = "onnxruntime"
    rewrite: Callable[[Bed], None] | None = None


def export_again(run: RunDirectory, calibration: int, *, openvino: bool) -> None:
    """Export everything by the command line in a process of its own, with other threads and another order of sets."""
    command = [sys.executable, "-m", "harness.cli", "export", run.name, "--runs", str(run.folder.parent), "--force"]
    command += [word for precision in PRECISIONS for word in ("--precision", precision)]
    command += ["--uint8-input", "--probabilities", "--calibration", str(calibration)]
    command += ["--openvino"] if openvino else []
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def _written(bed: Bed, change: Callable[[Model], Model | None]) -> None:
    model = onnx.load(bed.path)
    model = change(model) or model
    onnx.checker.check_model(model, full_check=True)
    vouch(bed.path, lambda temporary: onnx.save(model, temporary))


def _other_producer(model: Model) -> None:
    model.producer_name, model.producer_version = "another-exporter", "9.9"
    model.doc_string = model.graph.doc_string = "Exported on another machine."


def _other_names(model: Model) -> None:
    graph = model.graph
    kept = {each.name for each in (*graph.input, *graph.output)}
    for number, node in enumerate(graph.node):
        node.name = f"step_{number}"
        for names in (node.input, node.output):
            names[:] = [name if name in kept or not name else f"value/{name}" for name in names]
    for tensor in graph.initializer:
        tensor.name = f"value/{tensor.name}"
    del graph.value_info[:]


def _other_order(model: Model) -> None:
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend(reversed(tensors))


def _identities(model: Model) -> None:
    graph = model.graph
    count = sum(node.op_type == "Relu" for node in graph.node)
    for index in range(count):
        node = node_of(model, "Relu", index)
        inner, outer = f"{node.output[0]}_same", node.output[0]
        node.output[0] = inner
        position = list(graph.node).index(node) + 1
        graph.node.insert(position, helper.make_node("Identity", [inner], [outer]))
    del graph.value_info[:]


def _next_opset(model: Model) -> Model:
    converted = version_converter.convert_version(model, 21)
    helper.set_model_props(converted, {each.key: each.value for each in model.metadata_props})
    return converted


def _optimised(model: Model) -> Model:
    """Return what ONNX Runtime writes down after its own simplest optimisations."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "plain.onnx", Path(folder) / "optimised.onnx"
        onnx.save(model, source)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(target)
    helper.set_model_props(optimised, {each.key: each.value for each in model.metadata_props})
    return optimised


_REWRITES: dict[str, Callable[[Model], Model | None]] = {
    "another producer": _other_producer,
    "other names of nodes and tensors": _other_names,
    "weights in another order": _other_order,
    "Identity behind every ReLU": _identities,
    "the next opset": _next_opset,
    "optimised by ONNX Runtime": _optimised,
}
REEXPORTED = "exported again"
REBUILDS = (
    *(Rebuild(name=REEXPORTED, file=f"{name}{ends}.onnx") for name in PRECISIONS for ends in ("", _DEPLOYED)),
    Rebuild(name=REEXPORTED, file="fp32.onnx", backend="openvino"),
    *(
        Rebuild(name=REEXPORTED, file=f"{name}.ir.xml", backend="openvino")
        for name in ("fp32", "fp16", "int8", f"fp32{_DEPLOYED}")
    ),
    *(
        Rebuild(name=name, file=file, rewrite=partial(_written, change=change))
        for file in ("fp32.onnx", "int8.onnx")
        for name, change in _REWRITES.items()
    ),
)
