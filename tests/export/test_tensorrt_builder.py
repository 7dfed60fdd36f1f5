"""Engines are really built here, with TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.tensorrt_builder import BatchProfile, BuiltEngine, engine_from_onnx
from harness.core import tensorrt_flavour
from harness.core.errors import ArtifactError, ExportError, UsageError
from harness.core.progress import SILENT, Progress, Task
from harness.core.rtx_header import rtx_header

_IMAGE_PX = 32


@pytest.fixture(scope="module", autouse=True)
def _tensorrt_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra `rtx`")


def _model(nodes: list[Any], weights: dict[str, Any], *, batch: int | str = "batch", px: int = _IMAGE_PX) -> Any:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, px, px])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("our.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _tiny(**options: Any) -> Any:
    """Conv, Relu, GlobalAveragePool, Flatten, Gemm: (batch, 3, 32, 32) to (batch, 2)."""
    random = np.random.default_rng(0)
    weights = {
        "kernel": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "head": random.normal(size=(2, 4)).astype(np.float32),
        "bias": np.zeros(2, np.float32),
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
    image_px: int = _IMAGE_PX,
    profile: BatchProfile | None = None,
    workspace_bytes: int = 1 << 30,
    progress: Progress = SILENT,
) -> BuiltEngine:
    return engine_from_onnx(
        path,
        flavour="rtx",
        input_name=input_name,
        image_px=image_px,
        profile=profile or BatchProfile(minimum=1, optimum=2, maximum=4),
        workspace_bytes=workspace_bytes,
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


def test_the_same_model_gives_the_same_bytes_twice(onnx_path: Path) -> None:
    assert bytes(_built(onnx_path).plan) == bytes(_built(onnx_path).plan)


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
        _built(onnx_path, image_px=64)


def test_a_failed_build_shows_the_lines_of_the_builder(onnx_path: Path) -> None:
    with pytest.raises(ExportError, match=r"did not build an engine(.|\n)*ERROR(.|\n)*workspace") as caught:
        _built(onnx_path, workspace_bytes=1024)
    assert "larger workspace" in caught.value.hint


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


@pytest.mark.parametrize("sizes", [(0, 1, 2), (4, 2, 8), (1, 9, 8), (-1, -1, -1)])
def test_batch_sizes_that_do_not_rise_from_one_are_refused(sizes: tuple[int, int, int]) -> None:
    minimum, optimum, maximum = sizes
    with pytest.raises(UsageError, match="must rise from 1") as caught:
        BatchProfile(minimum=minimum, optimum=optimum, maximum=maximum)
    assert "minimum <= optimum <= maximum" in caught.value.hint


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
