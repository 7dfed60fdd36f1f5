"""Checkpoint -> ONNX in float32, with the contract inside the file.

Torch's dynamo exporter, opset 20, dynamic batch, one file. The exporter writes the paths of the machine's Python
sources into every node; they are stripped, so the same checkpoint gives the same bytes everywhere.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.cases import case_named
from harness.core.contract import Contract
from harness.core.errors import ExportError
from harness.core.models import model_from_checkpoint

if TYPE_CHECKING:
    import onnx_ir

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
# ONNX Runtime 1.31 and OpenVINO 2026.4 read more, TensorRT 11.4 does not; below 18 the exporter refuses.
OPSET = 20
PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnx-ir")
_log = logging.getLogger(__name__)


def base_model(checkpoint: Path, contract: Contract) -> onnx_ir.Model:
    """Return the float32 model of a checkpoint, without a trace of this machine.

    Input `image` is float32 [batch, 3, crop, crop], output `logits` float32 [batch, classes], for any batch.
    Raises ExportError where the exporter refuses.
    """
    model = _exported_model(checkpoint, contract)
    _strip_source_paths(model)
    return model


def _exported_model(checkpoint: Path, contract: Contract) -> onnx_ir.Model:
    import torch

    network = model_from_checkpoint(case_named(contract.case), checkpoint)
    side_px = contract.preprocessing.crop_px
    # Two images: the exporter may fold a batch of one into a constant.
    example_bchw = torch.zeros(2, 3, side_px, side_px)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (example_bchw,),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
                external_data=False,
                optimize=True,
                verify=False,
                report=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ExportError(
            f"torch's exporter refused {checkpoint}: {error}",
            hint="The versions of torch, onnx and onnxscript must be those of constraints.txt: `make setup`.",
        ) from error
    assert program is not None, "export returns a program when it is not given a file"
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints on stdout, which belongs to results; what it printed goes to the debug log."""
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said):
        warnings.simplefilter("ignore")
        yield
    if said.getvalue():
        _log.debug("exporter: %s", said.getvalue())


def _strip_source_paths(model: onnx_ir.Model) -> None:
    for function in (model.graph, *model.functions.values()):
        for node in _all_nodes(function):
            node.metadata_props.clear()
            node.doc_string = None
        function.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _all_nodes(graph: Any) -> Iterator[Any]:
    import onnx_ir

    yield from onnx_ir.traversal.RecursiveGraphIterator(getattr(graph, "graph", graph))


def save_and_check(model: onnx_ir.Model, path: Path) -> None:
    """Write a model into one file; raise ExportError where ONNX's own checker refuses it."""
    import onnx
    import onnx_ir

    onnx_ir.save(model, path, format="protobuf")
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"The exported model is not valid ONNX: {error}",
            hint="The versions of torch, onnx and onnxscript must be those of constraints.txt: `make setup`.",
        ) from error
