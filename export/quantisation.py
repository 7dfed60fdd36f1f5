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
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from export.calibration import CalibrationMethod
from harness.core.contract import Preprocessing
from harness.core.errors import ExportError
from harness.core.progress import Task
from harness.data.preprocessing import images_from_pixels

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

    Raises ExportError where the quantiser refuses.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationMethod as Method

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
                nodes_to_exclude=sorted(float_nodes),
                calibrate_method=getattr(Method, _METHODS[method]),
                calibration_cache_path=ranges,
                extra_options=symmetric if form == "int8" else {},
            )
    except (ValueError, KeyError, RuntimeError) as error:
        raise ExportError(
            f"ONNX Runtime's quantiser refused {source.name}: {error}",
            hint="The versions of onnx and onnxruntime must be those of constraints.txt: `make setup`.",
        ) from error


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
