"""float32 ONNX -> int8 as Q/DQ nodes, by ONNX Runtime's quantiser, in the two forms that the runtimes need.

`int8`: symmetric int8 activations and weights, weights per channel, biases in float. TensorRT and TensorRT-RTX
refuse zero points and int32 biases; OpenVINO is as fast with it as with any.
`int8-u8s8`: uint8 activations, the only form for which ONNX Runtime has fast x86 kernels (2.7 against 8.3 ms a
ResNet-18 image); it gains nothing from the symmetric one.

Both are made from the same measured ranges, one image at a time: the quantiser would otherwise hold every activation
of every image at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from export.calibration import CalibrationMethod
from harness.core.contract import Preprocessing
from harness.core.errors import ExportError
from harness.core.interrupts import interrupts_held
from harness.core.progress import Task
from harness.data.preprocessing import images_from_pixels

if TYPE_CHECKING:
    import onnx_ir

QuantisedForm = Literal["int8", "int8-u8s8"]
_log = logging.getLogger(__name__)
_METHODS: dict[CalibrationMethod, str] = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
QUANTISED_OPERATORS = ("Conv", "Gemm", "MatMul")


def measure_ranges(
    source: Path,
    ranges: Path,
    pixels_bhwc: npt.NDArray[np.uint8],
    preprocessing: Preprocessing,
    method: CalibrationMethod,
    task: Task,
) -> None:
    """Write the range of every activation over the images to the JSON file `ranges`, as the quantiser reads it."""
    with interrupts_held():
        from onnxruntime.quantization.calibrate import CalibrationMethod as Method
        from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    operators = sorted({*QLinearOpsRegistry, *QDQRegistry})
    with _quiet():
        calibrator = create_calibrator(
            source,
            operators,
            augmented_model_path=str(ranges.with_suffix(".augmented.onnx")),
            calibrate_method=getattr(Method, _METHODS[method]),
        )
        try:
            for row in range(len(pixels_bhwc)):
                images_bchw = images_from_pixels(pixels_bhwc[row : row + 1], preprocessing)
                calibrator.collect_data(_reader(images_bchw))
                task.advance()
            save_tensors_data(calibrator.compute_data(), ranges)
            # Stored in the order of a set of names, another one in every process; its hash must tell the content.
            content = json.loads(ranges.read_text(encoding="utf-8"))
            # A new file: the library's is readable for its owner alone, unlike every other artifact.
            ranges.unlink()
            ranges.write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
        finally:
            ranges.with_suffix(".augmented.onnx").unlink(missing_ok=True)


def write_quantised(
    source: Path,
    out: Path,
    form: QuantisedForm,
    ranges: Path,
    method: CalibrationMethod,
    *,
    float_nodes: Collection[str] = (),
    only_node: str | None = None,
) -> None:
    """Write the int8 model from measured ranges; `float_nodes` stay in float32, or all but `only_node` do.

    What feeds a float layer (Relu, Add, pooling) stays in float with it, and so does its input: rounded to int8, an
    input of wide range would be as lost as before, and ONNX Runtime quantises the weights of any layer that it finds
    between a DequantizeLinear and a QuantizeLinear by itself, per tensor.
    Raises ExportError where the quantiser refuses.
    """
    with interrupts_held():
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.calibrate import CalibrationMethod as Method

    apart = _with_what_feeds(source, float_nodes)
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    try:
        with _quiet():
            quantize_static(
                source,
                out,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8 if form == "int8" else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=[only_node] if only_node else None,
                nodes_to_exclude=sorted(apart),
                calibrate_method=getattr(Method, _METHODS[method]),
                calibration_cache_path=ranges,
                extra_options=symmetric if form == "int8" else {},
            )
    except (ValueError, KeyError, RuntimeError) as error:
        raise ExportError(
            f"ONNX Runtime's quantiser refused {source.name}: {error}",
            hint="The versions of onnx and onnxruntime must be those of constraints.txt: `make setup`.",
        ) from error
    if apart:
        _let_through(out, apart)


def _with_what_feeds(source: Path, names: Collection[str]) -> set[str]:
    """Return `names` and those of the nodes without weights between them and the layers before."""
    import onnx

    if not names:
        return set()
    graph = onnx.load(source, load_external_data=False).graph
    producers = {output: node for node in graph.node for output in node.output}
    found, waiting = set(), [node for node in graph.node if node.name in names]
    while waiting:
        node = waiting.pop()
        found.add(node.name)
        before = [producers[name] for name in node.input if name in producers]
        waiting += [each for each in before if each.op_type not in QUANTISED_OPERATORS and each.name not in found]
    return found


def _let_through(path: Path, names: Collection[str]) -> None:
    """Connect the inputs of these nodes to what was there before it was quantised for others."""
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model = onnx_ir.load(path)
    for node in model.graph:
        for index, value in enumerate(node.inputs):
            wide = _before_rounding(value)
            if node.name in names and wide is not None:
                node.replace_input_with(index, wide)
    RemoveUnusedNodesPass()(model)
    onnx_ir.save(model, path)


def _before_rounding(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """Return the float tensor of a DequantizeLinear(QuantizeLinear(tensor)), None where there is none."""
    dequantise = None if value is None else value.producer()
    if dequantise is None or dequantise.op_type != "DequantizeLinear" or dequantise.inputs[0] is None:
        return None
    quantise = dequantise.inputs[0].producer()
    return quantise.inputs[0] if quantise is not None and quantise.op_type == "QuantizeLinear" else None


def quantised_nodes(source: Path) -> list[str]:
    """Return the names of the nodes with weights, in the order of the graph: what int8 can be decided for."""
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    return [node.name for node in graph.node if node.op_type in QUANTISED_OPERATORS]


def _reader(images_bchw: npt.NDArray[np.float32]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class OneBatch(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter([{"image": images_bchw}])

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            return next(self._batches, None)

    return OneBatch()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints on stdout, and warns of a preparation that torch's exporter has done already."""
    said, root = io.StringIO(), logging.getLogger()
    root.addFilter(_not_about_preparation)
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        root.removeFilter(_not_about_preparation)
    if said.getvalue():
        _log.debug("quantiser: %s", said.getvalue())


def _not_about_preparation(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()
