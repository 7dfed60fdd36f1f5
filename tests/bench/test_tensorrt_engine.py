"""The TensorRT backends' logic against stand-ins that really copy and compute; on a GPU where there is one."""

from __future__ import annotations

import ast
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.backends import cuda_memory, tensorrt_loading
from bench.backends.interface import Backend, MeasuredMemory, TimedOnDevice
from bench.backends.tensorrt_engine import TensorrtEngine
from bench.backends.tensorrt_loading import load, load_through_pycuda, load_with_graph
from harness.core.artifacts import Kind, write_artifact
from harness.core.errors import ArtifactError, BackendError
from harness.core.rtx_header import HEADER_BYTES, TARGETS
from harness.core.tensorrt_flavour import gpu_driver_present
from tests.stand_ins.cuda import CudaStandIn
from tests.stand_ins.setting import BATCH, SHAPE, Setting, request_for
from tests.stand_ins.tensorrt import PX

_PIXELS_SHAPE = (BATCH, PX, PX, 3)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_bound_images_become_their_logits(setting: Setting) -> None:
    backend: Backend = setting.load()
    for seed in (1, 2):
        images = setting.images(seed)
        backend.bind(images)
        backend.step()
        backend.sync()
        np.testing.assert_allclose(backend.fetch(), setting.expected(images), rtol=1e-5, atol=1e-5)
    backend.close()


def test_the_images_are_on_the_device_when_bind_returns(setting: Setting) -> None:
    backend = setting.load()
    images = setting.images()
    backend.bind(images)

    assert setting.cuda.queue == []
    np.testing.assert_array_equal(setting.engine._array("image", SHAPE), images)


def test_a_step_waits_for_nothing_and_copies_nothing(setting: Setting) -> None:
    backend = setting.load()
    backend.bind(setting.images())
    setting.cuda.calls.clear()
    backend.step()

    assert setting.cuda.calls == ["cudaEventRecord"] * 2
    assert len(setting.cuda.queue) == 3


def test_fetched_logits_outlive_the_backend(setting: Setting) -> None:
    backend = setting.load()
    images = setting.images()
    backend.bind(images)
    backend.step()
    backend.sync()
    logits = backend.fetch()
    backend.bind(setting.images(9))
    backend.step()
    backend.fetch()
    backend.close()

    assert logits.flags.owndata
    np.testing.assert_allclose(logits, setting.expected(images), rtol=1e-5, atol=1e-5)


def test_an_engine_with_float16_tensors_is_fed_float16_and_answers_in_float32(setting: Setting) -> None:
    setting.engine.tensors = {"image": "HALF", "logits": "HALF"}
    backend = setting.load(name="fp16.tensorrt.engine")
    images = setting.images()
    backend.bind(images)
    backend.step()
    logits = backend.fetch()

    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, setting.expected(images), rtol=0.01, atol=0.05)
    assert "HALF to HALF" in backend.describe().precision


def _pixels(seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size=_PIXELS_SHAPE, dtype=np.uint8)


def test_pixels_reach_an_engine_that_takes_them_as_they_are(setting: Setting) -> None:
    setting.engine.take_pixels()
    backend = setting.load(name="fp16-uint8in.tensorrt.engine")
    for seed in (1, 2):
        pixels = _pixels(seed)
        backend.bind(pixels)
        np.testing.assert_array_equal(setting.engine._array("image", _PIXELS_SHAPE), pixels)
        backend.step()
        expected = setting.expected(pixels.astype(np.float32))
        np.testing.assert_allclose(backend.fetch(), expected, rtol=1e-4, atol=1e-2)
    assert backend.fetch_answers() is None
    assert len(setting.cuda.memory) == 4
    assert "UINT8 to FLOAT" in backend.describe().precision


def test_an_engine_that_takes_pixels_refuses_floats_and_another_layout(setting: Setting) -> None:
    setting.engine.take_pixels()
    backend = setting.load(name="fp32-uint8in.tensorrt.engine")
    for images in (setting.images(), np.zeros(SHAPE, np.uint8), np.zeros(_PIXELS_SHAPE, np.float32)):
        with pytest.raises(BackendError, match=r"loaded for uint8 \(2, 4, 4, 3\)"):
            backend.bind(images)


def test_an_engine_of_another_input_than_its_variant_says_is_refused_and_nothing_leaks(setting: Setting) -> None:
    setting.engine.image_shape = (PX, PX, 3)
    with pytest.raises(BackendError, match="takes FLOAT, which is no fp32-uint8in"):
        setting.load(name="fp32-uint8in.tensorrt.engine")
    setting.assert_all_released()
    setting.engine.take_pixels()
    with pytest.raises(BackendError, match=r"does not take \(2, 3, 4, 4\)"):
        setting.load()
    setting.assert_all_released()


def test_the_second_output_is_the_answers_of_the_same_inference(setting: Setting) -> None:
    setting.engine.take_pixels()
    setting.engine.give_answers()
    backend = setting.load(name="fp32-uint8in-prob.tensorrt.engine")
    assert len(setting.cuda.memory) == 6
    for seed in (1, 2):
        backend.bind(_pixels(seed))
        backend.step()
        backend.sync()
        outputs_bc, answers_b = backend.fetch(), backend.fetch_answers()
        assert answers_b is not None
        assert (answers_b.dtype, answers_b.shape) == (np.int64, (BATCH,))
        assert answers_b.flags.owndata
        np.testing.assert_array_equal(answers_b, outputs_bc.argmax(axis=1))
    backend.close()
    setting.assert_all_released()


@pytest.mark.parametrize("variant", ["fp32", "fp32-prob"])
def test_a_second_output_that_is_missing_or_not_expected_is_refused(setting: Setting, variant: str) -> None:
    if variant == "fp32":
        setting.engine.give_answers()
    with pytest.raises(BackendError, match=f"which is no {variant}"):
        setting.load(variant=variant)
    setting.assert_all_released()


def test_a_name_that_is_no_variant_is_refused(setting: Setting) -> None:
    with pytest.raises(BackendError, match="'int4', which is no variant"):
        setting.load(variant="int4")


@pytest.mark.parametrize("type_name", ["BF16", "INT32"])
def test_tensors_that_cannot_be_fed_or_read_are_refused_and_nothing_leaks(setting: Setting, type_name: str) -> None:
    setting.engine.tensors["image"] = type_name
    with pytest.raises(BackendError, match=f"image in {type_name}"):
        setting.load()
    setting.assert_all_released()


def test_closing_releases_everything_and_may_be_repeated(setting: Setting) -> None:
    backend = setting.load()
    backend.bind(setting.images())
    assert len(setting.cuda.memory) == 4
    backend.close()
    setting.assert_all_released()
    backend.close()


def test_closing_waits_for_work_and_frees_the_stream_last(setting: Setting) -> None:
    backend = setting.load()
    backend.bind(setting.images())
    backend.step()
    setting.cuda.calls.clear()
    backend.close()

    assert setting.cuda.queue == []
    assert setting.cuda.calls[0] == "cudaStreamSynchronize"
    assert setting.cuda.calls[-1] == "cudaStreamDestroy"


def test_closing_releases_everything_even_where_the_device_reports_an_error(setting: Setting) -> None:
    backend = setting.load()
    setting.cuda.failing = "cudaStreamSynchronize"
    with pytest.raises(BackendError, match="cudaErrorMemoryAllocation"):
        backend.close()
    setting.assert_all_released()


_VERBS: dict[str, Callable[[TensorrtEngine], object]] = {
    "bind": lambda backend: backend.bind(np.zeros(SHAPE, np.float32)),
    "step": TensorrtEngine.step,
    "sync": TensorrtEngine.sync,
    "fetch": TensorrtEngine.fetch,
    "fetch_answers": TensorrtEngine.fetch_answers,
    "describe": TensorrtEngine.describe,
}


@pytest.mark.parametrize("verb", list(_VERBS))
def test_a_closed_engine_does_nothing_any_more(setting: Setting, verb: str) -> None:
    backend = setting.load()
    backend.bind(setting.images())
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        _VERBS[verb](backend)


@pytest.mark.parametrize("verb", ["step", "sync", "fetch", "fetch_answers"])
def test_logits_of_images_that_were_never_bound_cannot_be_had(setting: Setting, verb: str) -> None:
    with pytest.raises(BackendError, match="no images were bound"):
        _VERBS[verb](setting.load())


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 3, PX, PX), np.float32), np.zeros((BATCH, PX, PX, 3), np.float32), np.zeros(SHAPE)],
    ids=["another batch", "channels last", "float64"],
)
def test_images_of_another_shape_or_type_are_refused(setting: Setting, images: Any) -> None:
    with pytest.raises(BackendError, match=r"loaded for float32 \(2, 3, 4, 4\)"):
        setting.load().bind(images)


def test_a_batch_outside_the_profile_is_refused_with_the_profile_and_nothing_leaks(setting: Setting) -> None:
    with pytest.raises(BackendError, match=r"\(5, 3, 4, 4\).*\(1, 3, 4, 4\) / \(2, 3, 4, 4\) / \(4, 3, 4, 4\)"):
        setting.load(batch_size=5)
    setting.assert_all_released()


def test_another_number_of_classes_is_refused_and_nothing_leaks(setting: Setting) -> None:
    setting.engine.classes = 14
    with pytest.raises(BackendError, match=r"\(2, 14\) for 3 classes"):
        setting.load()
    setting.assert_all_released()


def test_an_engine_with_two_inputs_is_refused(setting: Setting) -> None:
    setting.engine.modes["logits"] = "INPUT"
    with pytest.raises(BackendError, match=r"has inputs \['image', 'logits'\] and outputs \[\]"):
        setting.load()
    setting.assert_all_released()


def test_a_plan_that_does_not_deserialise_is_refused_with_the_log_and_nothing_leaks(setting: Setting) -> None:
    with pytest.raises(BackendError, match=r"cannot be loaded(.|\n)*ERROR: the magic tag is wrong") as caught:
        setting.load(plan=b"something else")
    assert "chatter" not in caught.value.message
    assert "Build the engine again" in caught.value.hint
    assert [runtime() for runtime in setting.engine.runtimes] == [None], "the error keeps the runtime alive"
    setting.assert_all_released()


def test_a_missing_context_is_refused_and_nothing_leaks(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting.engine, "create_execution_context", lambda: None)
    with pytest.raises(BackendError, match="execution context"):
        setting.load()
    setting.assert_all_released()


@pytest.mark.parametrize(
    "call",
    [
        *("cudaGetDeviceCount", "cudaSetDevice", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"),
        *("cudaMemGetInfo", "cudaHostAlloc", "cudaMalloc"),
    ],
)
def test_a_cuda_error_while_loading_is_told_by_name_and_nothing_leaks(setting: Setting, call: str) -> None:
    setting.cuda.failing = call
    with pytest.raises(BackendError, match="cudaErrorMemoryAllocation: out of memory"):
        setting.load()
    setting.assert_all_released()


def test_a_driver_without_a_gpu_is_told(setting: Setting) -> None:
    setting.cuda.devices = 0
    with pytest.raises(BackendError, match="no GPU"):
        setting.load()


@pytest.mark.parametrize(
    ("verb", "call"),
    [("bind", "cudaMemcpyAsync"), ("sync", "cudaStreamSynchronize"), ("fetch", "cudaMemcpyAsync")],
)
def test_a_cuda_error_while_running_is_told_by_name(setting: Setting, verb: str, call: str) -> None:
    backend = setting.load()
    backend.bind(setting.images())
    setting.cuda.failing = call
    with pytest.raises(BackendError, match="cudaErrorMemoryAllocation"):
        _VERBS[verb](backend)


def test_an_inference_that_does_not_start_is_told(setting: Setting) -> None:
    backend = setting.load()
    backend.bind(setting.images())
    setting.engine.starts = False
    with pytest.raises(BackendError, match="did not start"):
        backend.step()


def test_only_tensorrt_rtx_gets_a_runtime_configuration_and_it_specialises_eagerly(setting: Setting) -> None:
    setting.load()
    assert setting.engine.configs == []
    setting.load(name="fp32.rtx.engine")
    assert setting.engine.configs == [setting.engine.runtime_config]
    assert vars(setting.engine.runtime_config) == {
        "dynamic_shapes_kernel_specialization_strategy": "EAGER",
        "cuda_graph_strategy": "DISABLED",
    }


def test_an_engine_that_the_library_holds_for_invalid_is_refused_with_reasons_and_nothing_leaks(
    setting: Setting,
) -> None:
    setting.engine.validity = ("INVALID", 3)
    with pytest.raises(BackendError, match="this GPU, an SM89: VERSION_MISMATCH, UNSUPPORTED_CC") as caught:
        setting.load(name="fp32.rtx.engine")
    assert "harness export" in caught.value.hint
    setting.assert_all_released()
    setting.load(name="fp32.tensorrt.engine")  # TensorRT itself cannot be asked.


def test_only_a_version_compatible_engine_may_bring_code_for_the_host(setting: Setting) -> None:
    runtimes = [setting.load(version_compatible=allowed)._runtime for allowed in (False, True)]
    assert [runtime.engine_host_code_allowed for runtime in runtimes] == [False, True]


def _inspection(*types: str, key: str = "Format/Datatype") -> str:
    return json.dumps({"Layers": [{"Name": "fp16 in a name", "Inputs": [{key: kind}]} for kind in types]})


def test_the_description_tells_request_and_reality_apart(setting: Setting) -> None:
    setting.engine.inspection = _inspection("Row major linear FP32", "Channel major Half")
    setting.engine.take_pixels()
    description = setting.load(name="renamed.tensorrt.engine", variant="int8-uint8in").describe()

    assert description.runtime == "TensorRT (no CUDA graph, cuda-python)"
    assert description.version == "11.4.0"
    assert description.device == "Stand-in GPU"
    assert description.threads is None
    assert description.precision == "int8 requested; layers fp16, fp32; UINT8 to FLOAT"
    assert description.departures == ["int8 was asked for, and no layer runs in it: fp16, fp32"]


def test_an_inspector_that_tells_no_types_makes_no_departure(setting: Setting) -> None:
    setting.engine.inspection = json.dumps({"Layers": ["conv", "relu"]})
    description = setting.load(name="fp16.rtx.engine").describe()

    assert description.runtime == "TensorRT-RTX (no CUDA graph, cuda-python)"
    assert "not told" in description.precision
    assert description.departures == []


@pytest.mark.skipif(gpu_driver_present(), reason="there is an NVIDIA driver here")
def test_without_a_driver_loading_says_so_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "fp32.tensorrt.engine"
    path.write_bytes(b"plan")
    with pytest.raises(BackendError, match="no NVIDIA driver") as caught:
        load(request_for(path))
    assert "NVIDIA GPU" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("fp32.rtx.engine", b"hello world" * 20, "not a TensorRT-RTX engine"),
        ("fp32.rtx.engine", b"", "is empty"),
        ("fp32.tensorrt.engine", b"vtrt" * 20, "an engine of TensorRT-RTX, under the name"),
        ("fp32.tensorrt.engine", b"\x08\x0a\x12\x07pytorch", "an ONNX file under the name"),
        ("fp32.tensorrt.engine", None, "does not exist"),
    ],
)
def test_a_foreign_file_is_refused_before_any_driver_is_asked_for(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=words):
        load(request_for(path))


def _rtx_engine(path: Path, version: bytes) -> None:
    header = b"vtrt" + bytes(12) + struct.pack("<Q", HEADER_BYTES) + version + b"vtrt" + struct.pack("<I", 4)
    path.write_bytes(header.ljust(HEADER_BYTES, b"\0"))


def test_an_engine_of_another_version_than_is_installed_is_refused_with_both(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "fp32.rtx.engine"
    _rtx_engine(path, bytes([1, 6, 0, 9]))
    with pytest.raises(BackendError, match=r"built by TensorRT-RTX 1\.6\.0\.9; installed is ") as caught:
        load(request_for(path))
    assert "harness export --trt --force" in caught.value.hint


def _recorded_plan(path: Path, **details: Any) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(b"plan")

    write_artifact(path, write, kind=Kind.ENGINE, parents={}, details=details)


def test_the_version_of_tensorrts_own_engine_is_the_sidecars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "11.4.0")
    monkeypatch.setattr(tensorrt_loading, "gpu_driver_present", lambda: False)
    path = tmp_path / "fp32.tensorrt.engine"
    _recorded_plan(path, flavour_version="11.3.0", version_compatible=False)
    with pytest.raises(BackendError, match=r"by TensorRT 11\.3\.0; installed is 11\.4\.0"):
        load(request_for(path))
    _recorded_plan(path, flavour_version="11.3.0", version_compatible=True)
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        load(request_for(path))


@pytest.mark.parametrize("name", ["fp32.onnx", "fp32.engine", "fp32.cuda.engine", "rtx.engine"])
def test_a_name_that_does_not_tell_the_flavour_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackendError, match="not the name of an engine"):
        load(request_for(tmp_path / name))


def test_every_cuda_call_exists_in_cuda_python_and_in_the_stand_in() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    source = Path(cuda_memory.__file__).read_text()
    used = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and re.match("cuda[A-Z]", node.attr)
    } - {"cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaStreamCaptureModeThreadLocal"}

    assert len(used) > 24
    assert [name for name in sorted(used) if not hasattr(runtime, name)] == []
    assert [name for name in sorted(used) if not hasattr(CudaStandIn, name)] == []
    capture_mode = "cudaStreamCaptureModeThreadLocal"
    real, ours = runtime.cudaStreamCaptureMode, CudaStandIn.cudaStreamCaptureMode
    assert int(getattr(real, capture_mode)) == getattr(ours, capture_mode)
    assert int(runtime.cudaMemcpyKind.cudaMemcpyHostToDevice) == CudaStandIn.cudaMemcpyKind.cudaMemcpyHostToDevice
    assert int(runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost) == CudaStandIn.cudaMemcpyKind.cudaMemcpyDeviceToHost


def _gpu_here() -> str:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    memory = cuda_memory.CudaMemory(runtime)
    try:
        return memory.compute_capability()
    finally:
        memory.close()


def _relu_engine(folder: Path, flavour: Any, **options: Any) -> Path:
    """Build an engine of Relu and GlobalAveragePool; the ONNX file stays beside it."""
    onnx = pytest.importorskip("onnx")
    from export.engine_options import BatchProfile, EngineOptions
    from export.tensorrt_builder import engine_from_onnx
    from harness.core.progress import SILENT

    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>'
        "agraph (float[batch, 3, 32, 32] image) => (float[batch, 3] logits)"
        "{ relu = Relu (image) pooled = GlobalAveragePool (relu) logits = Flatten (pooled) }"
    )
    onnx_path, engine_path = folder / "fp32.onnx", folder / f"fp32.{flavour}.engine"
    onnx.save(model, onnx_path)
    built = engine_from_onnx(
        onnx_path,
        flavour=flavour,
        input_name="image",
        input_shape=(-1, 3, 32, 32),
        profile=BatchProfile(),
        options=EngineOptions(**options),
        progress=SILENT,
    )
    with engine_path.open("wb") as stream:
        stream.write(memoryview(built.plan))
    return engine_path


def test_a_real_rtx_engine_passes_every_check_that_needs_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(tensorrt_loading, "gpu_driver_present", lambda: False)
    path = _relu_engine(tmp_path, "rtx")
    with pytest.raises(BackendError, match="no NVIDIA driver"):  # The next thing it needs.
        load(request_for(path))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="truncated"):
        load(request_for(path))
    foreign = tmp_path / "fp32.tensorrt.engine"
    foreign.write_bytes(content)
    with pytest.raises(ArtifactError, match="an engine of TensorRT-RTX"):
        load(request_for(foreign))
    path.write_bytes((tmp_path / "fp32.onnx").read_bytes())
    with pytest.raises(ArtifactError, match="an ONNX file"):
        load(request_for(path))


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_driver_present(), reason="needs an NVIDIA GPU")
def test_an_engine_for_another_gpu_is_refused_with_both(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    here = _gpu_here()
    path = _relu_engine(tmp_path, "rtx", targets=("SM86" if here.startswith("SM12") else "SM120",))
    with pytest.raises(BackendError, match=f"not for this GPU, an {here}"):
        load(request_for(path, batch_size=4, image_px=32))


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_driver_present(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("loader", [load, load_with_graph, load_through_pycuda])
@pytest.mark.parametrize("flavour", ["tensorrt", "rtx"])
def test_a_real_engine_agrees_with_the_onnx_reference(tmp_path: Path, flavour: Any, loader: Any) -> None:
    pytest.importorskip("pycuda" if loader is load_through_pycuda else "cuda.bindings.runtime")
    pytest.importorskip("tensorrt" if flavour == "tensorrt" else "tensorrt_rtx")
    if flavour == "rtx" and _gpu_here() not in TARGETS:
        pytest.skip(f"TensorRT-RTX does not build for this GPU, an {_gpu_here()}")
    from onnx.reference import ReferenceEvaluator

    engine_path = _relu_engine(tmp_path, flavour)
    backend = loader(request_for(engine_path, batch_size=4, image_px=32, class_count=3))
    try:
        for seed in range(3):  # What a graph recorded must run on images that it has not seen.
            images = np.random.default_rng(seed).normal(size=(4, 3, 32, 32)).astype(np.float32)
            backend.bind(images)
            backend.step()
            backend.sync()
            (expected,) = ReferenceEvaluator(tmp_path / "fp32.onnx").run(None, {"image": images})
            np.testing.assert_allclose(backend.fetch(), expected, rtol=1e-4, atol=1e-5)
            assert isinstance(backend, TimedOnDevice)
            assert isinstance(backend, MeasuredMemory)
            assert 0 < backend.device_time_s() < 1
            assert backend.device_bytes() >= 0
        assert backend.describe().departures == []
        assert backend.describe().device
    finally:
        backend.close()
