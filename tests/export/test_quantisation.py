"""The two int8 forms: what is inside them, who takes them, and that the same inputs give the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from export.quantisation import measure_ranges, quantised_nodes, write_quantised
from harness.core.artifacts import Kind, verified_sidecar
from harness.core.contract import Preprocessing
from harness.core.errors import ExportError
from harness.core.progress import SILENT
from harness.data.preprocessing import images_from_pixels

_PREPROCESSING = Preprocessing(resize_px=16, crop_px=16)
_PIXELS_BHWC = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3)).astype(np.uint8)


def _measure(source: Path, ranges: Path, method: Any = "minmax") -> Path:
    with SILENT.task("", total=None) as task:
        measure_ranges(source, ranges, _PIXELS_BHWC, _PREPROCESSING, method, task)
    return ranges


@pytest.fixture
def source(residual_network: Callable[..., Path]) -> Path:
    return residual_network()


@pytest.fixture
def ranges(source: Path, tmp_path: Path) -> Path:
    return _measure(source, tmp_path / "ranges.json")


def _written(source: Path, ranges: Path, form: Any, **options: Any) -> Path:
    out = source.with_name(f"{form}.onnx")
    write_quantised(source, out, form, ranges, options.pop("method", "minmax"), **options)
    onnx.checker.check_model(str(out), full_check=True)
    return out


def _stored(path: Path) -> dict[str, Any]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def _answers(path: Path) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images_from_pixels(_PIXELS_BHWC, _PREPROCESSING)})[0]


def _pairs(path: Path) -> list[Any]:
    return [node for node in onnx.load(path).graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]


def _check_symmetric(path: Path) -> None:
    stored = _stored(path)
    pairs = _pairs(path)
    assert pairs
    for node in pairs:
        zero = stored[node.input[2]]
        assert zero.dtype == np.int8, node.name
        assert not zero.any(), node.name
        # A stored tensor that is dequantised is a weight, never a bias in int32.
        assert node.input[0] not in stored or stored[node.input[0]].dtype == np.int8, node.name


def test_int8_is_symmetric_without_zero_points_and_without_int32_biases(source: Path, ranges: Path) -> None:
    path = _written(source, ranges, "int8")
    _check_symmetric(path)
    stored = _stored(path)
    assert (stored["b2"] == _stored(source)["b2"]).all(), "a bias stays in float"
    for name, channels in (("w1", 8), ("w2", 8), ("wh", 3)):
        assert stored[f"{name}_quantized"].dtype == np.int8
        assert stored[f"{name}_scale"].shape == (channels,), "one scale for each output channel"
        largest = np.abs(_stored(source)[name]).reshape(channels, -1).max(axis=1)
        np.testing.assert_allclose(stored[f"{name}_scale"], largest / 127, rtol=1e-5)


def test_int8_u8s8_has_uint8_activations_and_int8_weights(source: Path, ranges: Path) -> None:
    path = _written(source, ranges, "int8-u8s8")
    stored = _stored(path)
    quantised = [node for node in _pairs(path) if node.op_type == "QuantizeLinear"]
    assert quantised
    assert {stored[node.input[2]].dtype for node in quantised} == {np.dtype(np.uint8)}
    assert all(stored[f"{name}_quantized"].dtype == np.int8 for name in ("w1", "w2", "wh"))


@pytest.mark.parametrize("form", ["int8", "int8-u8s8"])
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_every_method_gives_a_model_close_to_float32(source: Path, tmp_path: Path, form: str, method: Any) -> None:
    measured = _measure(source, tmp_path / "measured.json", method)
    wide_bc = _answers(source)
    narrow_bc = _answers(_written(source, measured, form, method=method))
    # Entropy and percentile cut peaks off: random pixels are nothing but peaks.
    allowed = 0.05 if method == "minmax" else 0.3
    assert 0 < np.abs(narrow_bc - wide_bc).max() < allowed * np.ptp(wide_bc)


def test_the_methods_measure_different_ranges(source: Path, tmp_path: Path) -> None:
    files = [_measure(source, tmp_path / f"{method}.json", method) for method in ("minmax", "entropy", "percentile")]
    assert len({file.read_bytes() for file in files}) == 3


def test_ranges_of_another_method_or_damaged_are_an_error_in_words(source: Path, ranges: Path) -> None:
    with pytest.raises(ExportError, match="quantiser refused"):
        _written(source, ranges, "int8", method="entropy")
    ranges.write_text(json.dumps({"nothing": 1}))
    with pytest.raises(ExportError, match="quantiser refused"):
        _written(source, ranges, "int8")


def test_measuring_leaves_nothing_but_the_ranges_and_prints_nothing(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    _written(source, _measure(source, folder / "ranges.json"), "int8")
    assert [path.name for path in folder.iterdir()] == ["ranges.json"]
    assert (folder / "ranges.json").stat().st_mode == source.stat().st_mode, "whoever reads the model reads its ranges"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("form", ["int8", "int8-u8s8"])
def test_a_layer_in_float_has_its_weights_and_its_input_in_float(source: Path, ranges: Path, form: str) -> None:
    assert quantised_nodes(source) == ["conv1", "conv2", "head"]
    path = _written(source, ranges, form, float_nodes=["conv2"])
    graph, stored = onnx.load(path).graph, _stored(path)
    producers = {output: node for node in graph.node for output in node.output}
    nodes = {node.name: node for node in graph.node}
    assert (stored["w2"] == _stored(source)["w2"]).all()
    before = producers[nodes["conv2"].input[0]]
    assert before.name == "relu1"
    assert producers[before.input[0]].name == "conv1"
    for name, weight in (("conv1", "w1"), ("head", "wh")):
        assert stored[f"{weight}_quantized"].dtype == np.int8
        assert producers[nodes[name].input[0]].op_type == "DequantizeLinear"
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert {output for node in graph.node for output in node.output} <= used, "nodes that nothing uses are left"


def test_all_layers_in_float_give_the_answers_of_float32(source: Path, ranges: Path) -> None:
    path = _written(source, ranges, "int8-u8s8", float_nodes=["conv1", "conv2"])
    np.testing.assert_allclose(_answers(path), _answers(source), rtol=0.02, atol=0.02 * np.ptp(_answers(source)))


def test_one_layer_quantised_alone_leaves_the_weights_of_the_others(source: Path, ranges: Path) -> None:
    stored = _stored(_written(source, ranges, "int8", only_node="conv2"))
    assert stored["w2_quantized"].dtype == np.int8
    assert {name for name, value in stored.items() if value.ndim > 1 and value.dtype == np.float32} == {"w1", "wh"}


@pytest.mark.parametrize("float_nodes", [(), ("conv2",)], ids=["all int8", "one layer in float"])
def test_tensorrt_rtx_builds_int8(
    source: Path, ranges: Path, rtx_engine: Callable[..., Any], float_nodes: tuple[str, ...]
) -> None:
    assert rtx_engine(_written(source, ranges, "int8", float_nodes=float_nodes)).plan is not None


_PROGRAM = """
import hashlib, sys
from pathlib import Path
import numpy as np
from export.quantisation import measure_ranges, write_quantised
from harness.core.contract import Preprocessing
from harness.core.progress import SILENT
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
pixels_bhwc = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3)).astype(np.uint8)
with SILENT.task("", total=None) as task:
    measure_ranges(source, folder / "r.json", pixels_bhwc, Preprocessing(resize_px=16, crop_px=16), "minmax", task)
for form in ("int8", "int8-u8s8"):
    write_quantised(source, folder / "q.onnx", form, folder / "r.json", "minmax", float_nodes={"conv2", "conv1"})
    print(hashlib.sha256((folder / "q.onnx").read_bytes()).hexdigest())
    write_quantised(source, folder / "q.onnx", form, folder / "r.json", "minmax")
    print(hashlib.sha256((folder / "q.onnx").read_bytes()).hexdigest())
print(hashlib.sha256((folder / "r.json").read_bytes()).hexdigest())
"""


def test_the_same_inputs_give_the_same_bytes_in_any_process(source: Path, ranges: Path, tmp_path: Path) -> None:
    hashes = []
    for seed in ("0", "1"):  # One after the other: the quantiser writes a file of its own beside the source.
        folder = tmp_path / f"process-{seed}"
        folder.mkdir()
        command = [sys.executable, "-c", _PROGRAM, str(source), str(folder)]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
        hashes.append(done.stdout.split())
    here = []
    for form in ("int8", "int8-u8s8"):
        for float_nodes in (["conv1", "conv2"], []):
            content = _written(source, ranges, form, float_nodes=float_nodes).read_bytes()
            here.append(hashlib.sha256(content).hexdigest())
    here.append(hashlib.sha256(ranges.read_bytes()).hexdigest())
    assert hashes == [here, here]


def test_both_exported_forms_are_made_from_the_same_ranges(every_precision: Path) -> None:
    folder = every_precision / "export"
    measured = verified_sidecar(folder / "int8-ranges.json", kind=Kind.CALIBRATION_RANGES, remedy="")
    forms = [
        verified_sidecar(folder / f"{name}.onnx", kind=Kind.ONNX_MODEL, remedy="") for name in ("int8", "int8-u8s8")
    ]
    assert [form.parents["ranges"] for form in forms] == 2 * [measured.sha256]
    assert forms[0].details["calibration"] == forms[1].details["calibration"]
    assert forms[0].details["calibration"]["split"] == "train"


def test_the_exported_resnet_is_symmetric_int8_with_every_layer_quantised(every_precision: Path) -> None:
    path = every_precision / "export" / "int8.onnx"
    _check_symmetric(path)
    kernels = [each for each in onnx.load(path).graph.initializer if len(each.dims) in {2, 4}]
    assert {each.data_type for each in kernels} == {TensorProto.INT8}
    assert len(kernels) == 21
