"""What the tests of export/ share: a tiny residual network, the session's run in every precision, engine builds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PX = 16


def _weights() -> dict[str, Any]:
    random = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "wh": (3, 8), "bh": (3,)}
    weights = {name: (0.3 * random.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    # What float16 holds as subnormals, rounds to 0, and at most.
    weights["b1"][:5] = [1e-7, -6e-8, 2e-8, 3.1e-8, 6.2e-5]
    return weights


@pytest.fixture
def residual_network(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes Conv, Relu, Conv, Add, Relu, MaxPool, pooling, Gemm; weights may be replaced."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def write(**replaced: Any) -> Path:
        weights = _weights() | replaced
        nodes = [
            helper.make_node("Conv", ["image", "w1", "b1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"], name="relu1"),
            helper.make_node("Conv", ["b", "w2", "b2"], ["c"], name="conv2", pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["b", "c"], ["d"], name="add"),
            helper.make_node("Relu", ["d"], ["e"], name="relu2"),
            helper.make_node("MaxPool", ["e"], ["f"], name="maxpool", kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("GlobalAveragePool", ["f"], ["g"], name="pool"),
            helper.make_node("Flatten", ["g"], ["h"], name="flatten"),
            helper.make_node("Gemm", ["h", "wh", "bh"], ["logits"], name="head", transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            "residual",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, PX, PX])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(weights["bh"])])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        path = tmp_path / "residual.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), path)
        return path

    return write


@pytest.fixture(scope="session")
def every_precision(session_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's run in every precision, each plain and with pixels in, probabilities out; not to be changed."""
    from export.calibration import Calibration
    from export.many import export_many
    from export.request import ExportRequest
    from harness.core.progress import SILENT
    from harness.core.runs import RunDirectory
    from harness.core.variants import PRECISIONS

    runs_folder = tmp_path_factory.mktemp("every-precision") / "runs"
    shutil.copytree(session_run.runs_folder, runs_folder)
    run = RunDirectory(runs_folder / session_run.folder.name)
    request = ExportRequest(
        precisions=PRECISIONS, uint8_input=True, probabilities=True, calibration=Calibration(count=16)
    )
    (outcome,) = export_many([run], request, SILENT)
    assert outcome.error is None, outcome.error
    return run.folder


@pytest.fixture
def rtx_engine() -> Callable[..., Any]:
    """Return a function that builds an engine with TensorRT-RTX, or skip."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra `rtx`")
    from export.engine_options import BatchProfile, EngineOptions
    from export.tensorrt_builder import engine_from_onnx
    from harness.core.progress import SILENT

    def build(path: Path, px: int = PX) -> Any:
        return engine_from_onnx(
            path,
            flavour="rtx",
            input_name="image",
            input_shape=(-1, 3, px, px),
            profile=BatchProfile(minimum=1, optimum=2, maximum=4),
            options=EngineOptions(targets=("SM86",)),
            progress=SILENT,
        )

    return build
