"""Engines are really built here, with TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import tensorrt_builder
from export.engine_options import BatchProfile, EngineOptions
from export.tensorrt_builder import BuiltEngine, engine_from_onnx
from export.tensorrt_log import kept_log
from harness.core import tensorrt_flavour
from harness.core.errors import ArtifactError, ExportError, UsageError
from harness.core.progress import SILENT, Progress, Task
from harness.core.rtx_header import rtx_header

_IMAGE_PX = 32


@pytest.fixture(scope="module", autouse=True)
def _tensorrt_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra `rtx`")


def _model(
    nodes: list[Any],
    weights: dict[str, Any],
    *,
    batch: int | str = "batch",
    input_type: int = TensorProto.FLOAT,
    input_shape: tuple[int, ...] = (3, _IMAGE_PX, _IMAGE_PX),
    outputs: Any = (("logits", TensorProto.FLOAT),),
) -> Any:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", input_type, [batch, *input_shape])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("our.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _tiny(kind: Any = np.float32, **options: Any) -> Any:
    """Conv, Relu, GlobalAveragePool, Flatten, Gemm: (batch, 3, 32, 32) to (batch, 2)."""
    random = np.random.default_rng(0)
    weights = {
        "kernel": random.normal(size=(4, 3, 3, 3)).astype(kind),
        "head": random.normal(size=(2, 4)).astype(kind),
        "bias": np.zeros(2, kind),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "bias"], ["logits"], transB=1),
    ]
    return _model(nodes, weights, **options)


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    path = tmp_path / "fp32.onnx"
    onnx.save(_tiny(), path)
    return path


def _built(
    path: Path,
    *,
    input_name: str = "image",
    input_shape: Any = (-1, 3, _IMAGE_PX, _IMAGE_PX),
    profile: Any = None,
    progress: Progress = SILENT,
    **options: Any,
) -> BuiltEngine:
    return engine_from_onnx(
        path,
        flavour="rtx",
        input_name=input_name,
        input_shape=input_shape,
        profile=profile or BatchProfile(minimum=1, optimum=2, maximum=4),
        options=EngineOptions(**{"workspace_bytes": 1 << 30} | options),
        progress=progress,
    )


class _Recorder:
    """Stands in for the command line; `when_advanced` is what a user does while watching."""

    def __init__(self, when_advanced: Any = lambda: None) -> None:
        self.when_advanced = when_advanced
        self.totals: list[int | None] = []
        self.advanced: list[int] = []
        self.notes: list[str] = []
        self.open = 0

    @contextmanager
    def task(self, description: str, *, total: int | None) -> Iterator[Task]:
        self.totals.append(total)
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self.when_advanced()
        self.advanced.append(amount)
        self.notes.append(note)

    def say(self, message: str) -> None:
        pass


def test_an_engine_is_built_and_its_header_agrees_with_its_size(onnx_path: Path, tmp_path: Path) -> None:
    engine = _built(onnx_path)
    file = tmp_path / "fp32.rtx.engine"
    with file.open("wb") as stream:
        stream.write(memoryview(engine.plan))

    content = file.read_bytes()
    header = rtx_header(content[:64], file_size_bytes=len(content))
    assert header.version == engine.version
    assert list(header.targets) == engine.targets == ["SM80", "SM86", "SM89", "SM120", "SM121"]
    assert engine.flavour == "rtx"
    assert engine.tf32 is False
    assert engine.build_s > 0
    assert engine.log == []


def test_the_order_in_which_targets_are_named_changes_nothing(onnx_path: Path) -> None:
    one, other = (_built(onnx_path, targets=targets) for targets in (("SM86", "SM89"), ("SM89", "SM86", "SM89")))

    assert one.targets == other.targets == ["SM86", "SM89"]
    # Bytes are promised of builds in a process of their own (test_engine_process.py).
    assert memoryview(one.plan).nbytes == memoryview(other.plan).nbytes


@pytest.mark.parametrize("target", ["SM80", "SM86", "SM89", "SM120", "SM121"])
def test_an_engine_is_for_the_target_asked_for_and_no_other(onnx_path: Path, target: str) -> None:
    assert _built(onnx_path, targets=(target,)).targets == [target]


def test_turing_has_no_fp32_and_says_so_but_takes_fp16(tmp_path: Path, onnx_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Turing \(SM75\): FP32 GEMM is not supported") as caught:
        _built(onnx_path, targets=("SM75",))
    assert "--precision fp16" in caught.value.hint

    half = tmp_path / "fp16.onnx"
    model = _tiny(np.float16, input_type=TensorProto.FLOAT16, outputs=(("logits", TensorProto.FLOAT16),))
    onnx.save(model, half)
    assert _built(half, targets=("SM75",)).targets == ["SM75"]


def test_an_engine_for_other_targets_than_asked_for_is_refused(
    onnx_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_builder, "configure_rtx", lambda *_: None)

    with pytest.raises(ExportError, match="asked for SM86, and by its header is for SM80, SM86, SM89, SM120, SM121"):
        _built(onnx_path, targets=("SM86",))


def test_tf32_is_on_where_nobody_says_anything_and_off_here_unless_asked_for(onnx_path: Path) -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx")
    untouched = trt.Builder(kept_log(trt)).create_builder_config()
    assert untouched.get_flag(trt.BuilderFlag.TF32) is True

    assert _built(onnx_path).tf32 is False
    assert _built(onnx_path, tf32=True).tf32 is True


def test_an_option_that_the_flavour_lacks_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--version-compatible"):
        _built(tmp_path / "absent.onnx", version_compatible=True)


def test_a_model_that_takes_pixels_and_gives_answers_builds(tmp_path: Path) -> None:
    path = tmp_path / "fp32-uint8in-prob.onnx"
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
        helper.make_node("Softmax", ["means"], ["probabilities"]),
        helper.make_node("ArgMax", ["probabilities"], ["answer"], axis=1, keepdims=0),
    ]
    outputs = (("probabilities", TensorProto.FLOAT), ("answer", TensorProto.INT64))
    shape = (_IMAGE_PX, _IMAGE_PX, 3)
    weights = {"axes": np.array([1, 2])}
    onnx.save(_model(nodes, weights, input_type=TensorProto.UINT8, input_shape=shape, outputs=outputs), path)

    engine = _built(path, input_shape=(-1, *shape))
    assert engine.targets
    assert [line for line in engine.log if "Make sure output answer has Int64 binding" not in line] == []
    with pytest.raises(ExportError, match=r"\(-1, 32, 32, 3\).*take \(1, 3, 32, 32\)"):
        _built(path)


def test_a_truncated_engine_is_refused_by_its_header(onnx_path: Path) -> None:
    content = bytes(_built(onnx_path).plan)

    with pytest.raises(ArtifactError, match="truncated"):
        rtx_header(content[:64], file_size_bytes=len(content) // 2)


def test_weights_in_a_file_beside_the_model_are_found(tmp_path: Path, onnx_path: Path) -> None:
    path = tmp_path / "elsewhere" / "fp32.onnx"
    path.parent.mkdir()
    onnx.save(_tiny(), path, save_as_external_data=True, location="fp32.onnx.data", size_threshold=0)
    assert path.with_name("fp32.onnx.data").stat().st_size > 0

    assert memoryview(_built(path).plan).nbytes == memoryview(_built(onnx_path).plan).nbytes


def test_weights_missing_beside_the_model_are_told(tmp_path: Path) -> None:
    path = tmp_path / "fp32.onnx"
    onnx.save(_tiny(), path, save_as_external_data=True, location="fp32.onnx.data", size_threshold=0)
    path.with_name("fp32.onnx.data").unlink()

    with pytest.raises(ExportError, match=r"cannot read fp32\.onnx(.|\n)*fp32\.onnx\.data"):
        _built(path)


def test_a_fixed_batch_size_builds_where_the_profile_agrees(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    onnx.save(_tiny(batch=4), path)

    assert _built(path, profile=BatchProfile(minimum=4, optimum=4, maximum=4)).targets
    with pytest.raises(ExportError, match=r"shape \(4, 3, 32, 32\).*take \(1, 3, 32, 32\)"):
        _built(path)


@pytest.mark.parametrize("content", [b"", b"hello world this is not onnx", b"garbage"], ids=["empty", "text", "word"])
def test_what_is_no_onnx_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fp32.onnx"
    path.write_bytes(content)

    with pytest.raises(ExportError, match=r"fp32\.onnx") as caught:
        _built(path)
    assert "harness export" in caught.value.hint


def test_a_truncated_model_is_refused_in_words(onnx_path: Path) -> None:
    content = onnx_path.read_bytes()
    onnx_path.write_bytes(content[: len(content) // 2])

    with pytest.raises(ExportError, match=r"fp32\.onnx"):
        _built(onnx_path)


def test_a_missing_model_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not exist"):
        _built(tmp_path / "absent.onnx")


def test_an_unknown_operator_is_named_with_its_node_and_without_talk_of_drivers(tmp_path: Path) -> None:
    path = tmp_path / "unknown.onnx"
    node = helper.make_node("FooBar", ["image"], ["logits"], name="the_node", domain="our.domain")
    onnx.save(_model([node], {}), path)

    with pytest.raises(ExportError, match=r"'the_node' \(operator FooBar\).*Plugin not found") as caught:
        _built(path)
    if not tensorrt_flavour.gpu_driver_present():
        assert "cudaError" not in caught.value.message


def test_adding_float16_to_float32_is_refused_because_networks_are_strongly_typed(tmp_path: Path) -> None:
    path = tmp_path / "mixed.onnx"
    node = helper.make_node("Add", ["image", "half"], ["logits"], name="the_sum")
    onnx.save(_model([node], {"half": np.ones((1,), np.float16)}), path)

    with pytest.raises(ExportError, match=r"'the_sum' \(operator Add\)") as caught:
        _built(path)
    assert "strongly typed" in caught.value.hint
    if not tensorrt_flavour.gpu_driver_present():
        assert "cudaError" not in caught.value.message


def _quantised(zero_point: Any) -> Any:
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["quantised"], name="the_q"),
        helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["logits"], name="the_dq"),
    ]
    return _model(nodes, {"scale": np.float32(0.1), "zero": zero_point})


def test_activations_quantised_around_zero_to_int8_build(tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    onnx.save(_quantised(np.int8(0)), path)

    assert _built(path).log == []


@pytest.mark.parametrize("zero_point", [np.uint8(128), np.int8(3)], ids=["uint8", "int8"])
def test_a_zero_point_other_than_zero_is_refused_with_what_is_taken(tmp_path: Path, zero_point: Any) -> None:
    path = tmp_path / "int8-u8s8.onnx"
    onnx.save(_quantised(zero_point), path)

    with pytest.raises(ExportError, match=r"'the_q' \(operator QuantizeLinear\).*Non-zero zero point") as caught:
        _built(path)
    assert "--precision int8" in caught.value.hint


def test_uint8_activations_that_would_be_read_as_int8_are_refused_though_the_library_only_warns(
    tmp_path: Path,
) -> None:
    path = tmp_path / "int8-u8s8.onnx"
    onnx.save(_quantised(np.uint8(0)), path)

    with pytest.raises(ExportError, match=r"would cut the uint8 activations(.|\n)*Defaulting to INT8"):
        _built(path)


def test_a_bias_quantised_to_int32_is_refused_with_its_node(tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    nodes = [
        helper.make_node("DequantizeLinear", ["bias32", "scale", "zero"], ["bias"], name="the_bias"),
        helper.make_node("Conv", ["image", "kernel", "bias"], ["logits"]),
    ]
    weights = {
        "bias32": np.zeros(4, np.int32),
        "scale": np.float32(0.01),
        "zero": np.int32(0),
        "kernel": np.ones((4, 3, 3, 3), np.float32),
    }
    onnx.save(_model(nodes, weights), path)

    with pytest.raises(ExportError, match=r"'the_bias' \(operator DequantizeLinear\)(.|\n)*Int32") as caught:
        _built(path)
    assert "biases in float" in caught.value.hint


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"input_name": "film"}, "image is missing dimensions in profile 0"),
        ({"input_shape": (-1, 3, 32)}, "image has 4 dimensions but profile 0 has 3"),
        ({"input_shape": (-1, 5, 32, 32)}, "profile has min=5, opt=5, max=5 but tensor has 3"),
        ({"profile": SimpleNamespace(minimum=4, optimum=2, maximum=1)}, "MIN<=OPT<=MAX"),
    ],
    ids=["name", "rank", "static dimension", "order"],
)
def test_a_profile_that_only_the_log_complains_of_is_refused_with_the_log(
    onnx_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, words: str
) -> None:
    monkeypatch.setattr(tensorrt_builder, "_check_input", lambda *_: None)  # Which finds all but the order itself.

    with pytest.raises(ExportError, match=words):
        _built(onnx_path, **given)


def test_a_model_without_outputs_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "mute.onnx"
    model = _tiny()
    del model.graph.output[:]
    path.write_bytes(model.SerializeToString())

    with pytest.raises(ExportError, match="no outputs"):
        _built(path)


def test_another_input_name_is_refused_with_the_name_that_there_is(onnx_path: Path) -> None:
    with pytest.raises(ExportError, match="inputs are image; expected only film"):
        _built(onnx_path, input_name="film")


def test_another_image_size_is_refused_with_both_shapes(onnx_path: Path) -> None:
    with pytest.raises(ExportError, match=r"\(-1, 3, 32, 32\).*\(1, 3, 64, 64\)"):
        _built(onnx_path, input_shape=(-1, 3, 64, 64))


def test_a_failed_build_shows_the_lines_of_the_builder(onnx_path: Path) -> None:
    with pytest.raises(ExportError, match=r"did not build an engine(.|\n)*ERROR(.|\n)*workspace") as caught:
        _built(onnx_path, workspace_bytes=1024)
    assert "larger `--workspace`" in caught.value.hint


def test_a_kept_error_does_not_keep_the_builder_and_its_weights(onnx_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        _built(onnx_path, input_name="film")

    locals_of = {frame.name: frame.frame.f_locals for frame in caught.traceback}
    assert locals_of["_plan_from_onnx"] == {}


def test_a_flavour_that_is_absent_is_refused_in_words(onnx_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tensorrt_flavour._MODULES, "rtx", "no_such_tensorrt")

    with pytest.raises(ExportError, match="no_such_tensorrt cannot be imported") as caught:
        _built(onnx_path)
    assert "Install" in caught.value.hint


def test_progress_runs_to_its_end_and_names_the_inner_phases(onnx_path: Path) -> None:
    progress = _Recorder()
    _built(onnx_path, progress=progress)

    assert progress.totals
    assert sum(progress.advanced) == sum(total or 0 for total in progress.totals)
    assert len([note for note in progress.notes if note]) > 3
    assert progress.open == 0


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), BrokenPipeError("the terminal is gone")])
def test_what_is_raised_inside_a_callback_comes_out_as_it_is(onnx_path: Path, raised: BaseException) -> None:
    def fail() -> None:
        raise raised

    progress = _Recorder(fail)
    with pytest.raises(type(raised)) as caught:
        _built(onnx_path, progress=progress)
    assert caught.value is raised
    assert progress.open == 0


def test_a_real_interrupt_cancels_the_build_and_leaves_the_handler_as_it_was(onnx_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    progress = _Recorder(lambda: signal.raise_signal(signal.SIGINT))

    with pytest.raises(KeyboardInterrupt):
        _built(onnx_path, progress=progress)
    assert len(progress.advanced) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_build_after_a_cancelled_one_succeeds(onnx_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _built(onnx_path, progress=_Recorder(lambda: signal.raise_signal(signal.SIGINT)))

    assert _built(onnx_path).targets


def test_ctrl_c_from_outside_ends_a_build_in_another_process(onnx_path: Path) -> None:
    child = _building_child(onnx_path)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "building"
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)

    assert child.returncode == 0
    assert out.split() == ["interrupted"]


def _building_child(onnx_path: Path) -> subprocess.Popen[str]:
    """Run `_build_slowly` in a process of its own."""
    program = (
        "import importlib.util, pathlib, sys\n"
        "spec = importlib.util.spec_from_file_location('child', sys.argv[1])\n"
        "child = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(child)\n"
        "child._build_slowly(pathlib.Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, __file__, str(onnx_path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _build_slowly(onnx_path: Path) -> None:
    """Build with a watcher that makes each step last long enough for a signal."""

    def linger() -> None:
        _tell("building" if not progress.advanced else "")
        time.sleep(0.2)

    progress = _Recorder(linger)
    try:
        _built(onnx_path, progress=progress)
    except KeyboardInterrupt:
        _tell("interrupted")
