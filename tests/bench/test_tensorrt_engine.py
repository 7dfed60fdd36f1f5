"""The TensorRT backend's logic against stand-ins that really copy and compute; on a GPU where there is one.

The stand-in for CUDA uses host memory as device memory and does nothing before the stream is synchronised, so
a missing synchronisation shows as wrong logits.
"""

from __future__ import annotations

import ast
import ctypes
import json
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.backends import cuda_memory
from bench.backends.interface import Backend, LoadRequest
from bench.backends.tensorrt_engine import TensorrtEngine, departures, layer_types, load
from harness.core.errors import ArtifactError, BackendError
from harness.core.tensorrt_flavour import gpu_driver_present

_REPOSITORY = Path(__file__).resolve().parents[2]
_API_FOLDER = _REPOSITORY.parent / "shared" / "api"
_BATCH, _PX, _CLASSES = 2, 4, 3
_SHAPE = (_BATCH, 3, _PX, _PX)
_NUMPY_TYPES = {"FLOAT": np.float32, "HALF": np.float16}


class CudaStandIn:
    """cuda.bindings.runtime on host memory; `failing` names a call that reports an error instead."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, *, devices: int = 1) -> None:
        self.devices = devices
        self.failing = ""
        self.memory: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.queue: list[Callable[[], object]] = []
        self.calls: list[str] = []

    def _call(self, name: str, *values: Any) -> tuple[Any, ...]:
        self.calls.append(name)
        return (2, *(None for _ in values)) if name == self.failing else (0, *values)

    def cudaGetErrorName(self, status: int) -> tuple[int, bytes]:
        return 0, b"cudaErrorMemoryAllocation"

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"out of memory"

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return self._call("cudaGetDeviceCount", self.devices)

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return self._call("cudaSetDevice")

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return self._call("cudaGetDeviceProperties", SimpleNamespace(name=b"Stand-in GPU\0\0"))

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        answer = self._call("cudaStreamCreateWithFlags", 7)
        if answer[0] == 0:
            self.streams.add(7)
        return answer

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        self.streams.remove(stream)
        return self._call("cudaStreamDestroy")

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        assert stream in self.streams
        while self.queue:
            self.queue.pop(0)()
        return self._call("cudaStreamSynchronize")

    def _allocate(self, name: str, size_bytes: int) -> tuple[Any, ...]:
        block = (ctypes.c_ubyte * size_bytes)()
        answer = self._call(name, ctypes.addressof(block))
        if answer[0] == 0:
            self.memory[answer[1]] = block
        return answer

    def cudaHostAlloc(self, size_bytes: int, flags: int) -> tuple[Any, ...]:
        return self._allocate("cudaHostAlloc", size_bytes)

    def cudaMalloc(self, size_bytes: int) -> tuple[Any, ...]:
        return self._allocate("cudaMalloc", size_bytes)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self.memory[address]
        return self._call("cudaFreeHost")

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.memory[address]
        return self._call("cudaFree")

    def cudaMemcpyAsync(self, target: int, source: int, size_bytes: int, kind: int, stream: int) -> tuple[Any, ...]:
        assert stream in self.streams
        assert all(len(self.memory[address]) == size_bytes for address in (target, source))
        self.queue.append(lambda: ctypes.memmove(target, source, size_bytes))
        return self._call("cudaMemcpyAsync")


class EngineStandIn:
    """An engine and its context in one: logits = images, flattened, times `weights`."""

    def __init__(self, cuda: CudaStandIn, types: tuple[str, str]) -> None:
        self.cuda = cuda
        self.tensors = {"image": types[0], "logits": types[1]}
        self.modes = {"image": "INPUT", "logits": "OUTPUT"}
        self.classes = _CLASSES
        self.starts = True
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.inspection = "{}"
        self.runtime_config = SimpleNamespace()
        self.configs: list[Any] = []
        self.num_io_tensors = 2
        self.runtimes: list[weakref.ref[Any]] = []
        self.weights = np.random.default_rng(3).normal(size=(3 * _PX * _PX, _CLASSES)).astype(np.float32)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return self.modes[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [(size, 3, _PX, _PX) for size in (1, 2, 4)]

    def create_runtime_config(self) -> Any:
        return self.runtime_config

    def create_execution_context(self, *config: Any) -> EngineStandIn:
        self.configs.extend(config)
        return self

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _format: self.inspection)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return 1 <= shape[0] <= 4 and shape[1:] == (3, _PX, _PX)

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], self.classes)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.cuda.memory

    def _array(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        block = self.cuda.memory[self.addresses[name]]
        return np.frombuffer(block, dtype=_NUMPY_TYPES[self.tensors[name]]).reshape(shape)

    def _compute(self) -> None:
        images = self._array("image", self.shape).astype(np.float32)
        self._array("logits", (self.shape[0], _CLASSES))[:] = images.reshape(self.shape[0], -1) @ self.weights

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle in self.cuda.streams
        if self.starts:
            self.cuda.queue.append(self._compute)
        return self.starts


class _Severity(int):
    name = "ERROR"


class RuntimeStandIn:
    """The plan b"plan" gives the engine, all others None and a line in the log."""

    def __init__(self, engine: EngineStandIn, logger: Any) -> None:
        self.engine = engine
        self.logger = logger

    def deserialize_cuda_engine(self, plan: Any) -> EngineStandIn | None:
        if bytes(plan) == b"plan":
            return self.engine
        self.logger.log(_Severity(1), "the magic tag is wrong")
        self.logger.log(_Severity(3), "chatter")
        return None


class TensorrtStandIn:
    """What the backend uses of the module."""

    __version__ = "11.4.0"
    TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    LayerInformationFormat = SimpleNamespace(JSON="JSON")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="EAGER")
    CudaGraphStrategy = SimpleNamespace(DISABLED="DISABLED")

    class ILogger:
        WARNING = 2

    def __init__(self, engine: EngineStandIn) -> None:
        self.engine = engine

    def Runtime(self, logger: Any) -> Any:
        runtime = RuntimeStandIn(self.engine, logger)
        self.engine.runtimes.append(weakref.ref(runtime))
        return runtime


class Setting:
    """A backend that can be loaded, and the stand-ins below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cuda = CudaStandIn()
        self.engine = EngineStandIn(self.cuda, ("FLOAT", "FLOAT"))

    def load(
        self, *, name: str = "fp32.tensorrt.engine", plan: bytes = b"plan", batch_size: int = _BATCH
    ) -> TensorrtEngine:
        path = self.folder / name
        path.write_bytes(plan)
        return TensorrtEngine(
            _request(path, batch_size=batch_size),
            tensorrt=TensorrtStandIn(self.engine),
            cuda_runtime=self.cuda,
        )

    def images(self, seed: int = 0) -> npt.NDArray[np.float32]:
        return np.random.default_rng(seed).normal(size=_SHAPE).astype(np.float32)

    def expected(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return images.reshape(_BATCH, -1) @ self.engine.weights

    def assert_all_released(self) -> None:
        assert self.cuda.memory == {}
        assert self.cuda.streams == set()


def _request(
    artifact: Path, *, batch_size: int = _BATCH, image_px: int = _PX, class_count: int = _CLASSES
) -> LoadRequest:
    return LoadRequest(
        artifact=artifact,
        case="any",
        batch_size=batch_size,
        image_px=image_px,
        class_count=class_count,
        threads=1,
    )


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
    np.testing.assert_array_equal(setting.engine._array("image", _SHAPE), images)


def test_a_step_waits_for_nothing_and_copies_nothing(setting: Setting) -> None:
    backend = setting.load()
    backend.bind(setting.images())
    setting.cuda.calls.clear()
    backend.step()

    assert setting.cuda.calls == []
    assert len(setting.cuda.queue) == 1


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


@pytest.mark.parametrize("type_name", ["UINT8", "BF16", "INT64"])
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
    "bind": lambda backend: backend.bind(np.zeros(_SHAPE, np.float32)),
    "step": TensorrtEngine.step,
    "sync": TensorrtEngine.sync,
    "fetch": TensorrtEngine.fetch,
    "describe": TensorrtEngine.describe,
}


@pytest.mark.parametrize("verb", list(_VERBS))
def test_a_closed_engine_does_nothing_any_more(setting: Setting, verb: str) -> None:
    backend = setting.load()
    backend.bind(setting.images())
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        _VERBS[verb](backend)


@pytest.mark.parametrize("verb", ["step", "sync", "fetch"])
def test_logits_of_images_that_were_never_bound_cannot_be_had(setting: Setting, verb: str) -> None:
    with pytest.raises(BackendError, match="no images were bound"):
        _VERBS[verb](setting.load())


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 3, _PX, _PX), np.float32), np.zeros((_BATCH, _PX, _PX, 3), np.float32), np.zeros(_SHAPE)],
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
    with pytest.raises(BackendError, match="not one of each"):
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
    ["cudaGetDeviceCount", "cudaSetDevice", "cudaStreamCreateWithFlags", "cudaHostAlloc", "cudaMalloc"],
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


def _inspection(*types: str, key: str = "Format/Datatype") -> str:
    return json.dumps({"Layers": [{"Name": "fp16 in a name", "Inputs": [{key: kind}]} for kind in types]})


def test_the_description_tells_request_and_reality_apart(setting: Setting) -> None:
    setting.engine.inspection = _inspection("Row major linear FP32", "Channel major Half")
    description = setting.load(name="int8-uint8in.tensorrt.engine").describe()

    assert description.runtime == "TensorRT"
    assert description.version == "11.4.0"
    assert description.device == "Stand-in GPU"
    assert description.threads is None
    assert description.precision == "int8 requested; layers fp16, fp32; FLOAT to FLOAT"
    assert description.departures == ["int8 was asked for, and no layer runs in it: fp16, fp32"]


def test_an_inspector_that_tells_no_types_makes_no_departure(setting: Setting) -> None:
    setting.engine.inspection = json.dumps({"Layers": ["conv", "relu"]})
    description = setting.load(name="fp16.rtx.engine").describe()

    assert description.runtime == "TensorRT-RTX"
    assert "not told" in description.precision
    assert description.departures == []


@pytest.mark.parametrize(
    ("inspection", "types"),
    [
        (_inspection("Row major linear FP32"), {"fp32"}),
        (_inspection("Half", "Float", "Int8", "BFloat16", key="Datatype"), {"fp16", "fp32", "int8", "bf16"}),
        (_inspection("float16"), {"fp16"}),
        ("", set()),
        ("not JSON", set()),
        ("[]", set()),
        ("{}", set()),
    ],
)
def test_layer_types_are_read_in_every_spelling(inspection: str, types: set[str]) -> None:
    assert layer_types(inspection) == types


@pytest.mark.parametrize(
    ("requested", "layers", "departs"),
    [
        ("fp32", {"fp32"}, False),
        ("fp32", {"fp32", "fp16"}, True),
        ("fp16", {"fp32", "fp16"}, False),
        ("fp16", {"fp32"}, True),
        ("bf16", {"fp16"}, True),
        ("int8", {"int8", "fp16"}, False),
        ("int8", {"fp32"}, True),
        ("int8", set(), False),
    ],
)
def test_layers_in_another_precision_than_requested_are_a_departure(
    requested: str, layers: set[str], departs: bool
) -> None:
    assert bool(departures(requested, layers)) is departs


@pytest.mark.skipif(gpu_driver_present(), reason="there is an NVIDIA driver here")
def test_without_a_driver_loading_says_so_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "fp32.tensorrt.engine"
    path.write_bytes(b"plan")
    with pytest.raises(BackendError, match="no NVIDIA driver") as caught:
        load(_request(path))
    assert "NVIDIA GPU" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"vtrt", b"hello world" * 20], ids=["empty", "magic only", "text"])
def test_a_foreign_file_is_refused_before_any_driver_is_asked_for(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fp32.rtx.engine"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not a TensorRT-RTX engine"):
        load(_request(path))


def test_a_missing_or_empty_engine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fp32.tensorrt.engine"
    with pytest.raises(ArtifactError, match="does not exist"):
        load(_request(path))
    path.touch()
    with pytest.raises(ArtifactError, match="is empty"):
        load(_request(path))


@pytest.mark.parametrize("name", ["fp32.onnx", "fp32.engine", "fp32.cuda.engine", "rtx.engine"])
def test_a_name_that_does_not_tell_the_flavour_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackendError, match="not the name of an engine"):
        load(_request(tmp_path / name))


_MODULE_NAMES = {"trt", "tensorrt"}
_CLASS_OF_NAME = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "tensor": "ITensor",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "config": "IBuilderConfig",
    "optimisation_profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "runtime_config": "IRuntimeConfig",
}


def _names_used(source: str) -> dict[str, set[tuple[str, str]]]:
    """Return the (class or "", name) pairs that a file uses; those in functions named *rtx* apart."""
    used: dict[str, set[tuple[str, str]]] = {"both": set(), "rtx": set()}

    def visit(node: ast.AST, where: str) -> None:
        if isinstance(node, ast.FunctionDef) and "rtx" in node.name:
            where = "rtx"
        if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
            owner = ast.unparse(node.value).removeprefix("self._")
            if owner in _MODULE_NAMES:
                used[where].add(("", node.attr))
            elif owner in _CLASS_OF_NAME:
                used[where].add((_CLASS_OF_NAME[owner], node.attr))
            elif owner.partition(".")[0] in _MODULE_NAMES:
                used[where].add((owner.partition(".")[2], node.attr))
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Attribute) and ast.unparse(base.value) in _MODULE_NAMES:
                    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)} - {"__init__"}
                    used[where] |= {(base.attr, method) for method in methods}
        for child in ast.iter_child_nodes(node):
            visit(child, where)

    visit(ast.parse(source), "both")
    return used


def _unknown(used: set[tuple[str, str]], api: dict[str, list[str]]) -> set[tuple[str, str]]:
    return {(owner, name) for owner, name in used if name not in (api[owner] if owner else api)}


@pytest.mark.parametrize(
    ("file", "least"),
    [
        ("export/tensorrt_builder.py", 26),
        ("export/tensorrt_progress.py", 4),
        ("bench/backends/tensorrt_engine.py", 25),
        ("harness/core/tensorrt_flavour.py", 0),
    ],
)
def test_every_name_exists_in_both_libraries(file: str, least: int) -> None:
    if not _API_FOLDER.is_dir():
        pytest.skip(f"the lists of both libraries' names are not at {_API_FOLDER}")
    both = json.loads((_API_FOLDER / "tensorrt-11.4.json").read_text())
    rtx = json.loads((_API_FOLDER / "tensorrt_rtx-1.7.json").read_text())
    used = _names_used((_REPOSITORY / file).read_text())

    assert len(used["both"] | used["rtx"]) >= least
    assert _unknown(used["both"], both) == set()
    assert _unknown(used["both"] | used["rtx"], rtx) == set()


def test_the_search_for_names_finds_one_that_version_11_removed() -> None:
    source = "def f(trt):\n    config.set_quantization_flag(trt.BuilderFlag.FP16)\n"

    assert _names_used(source)["both"] == {
        ("IBuilderConfig", "set_quantization_flag"),
        ("", "BuilderFlag"),
        ("BuilderFlag", "FP16"),
    }


def test_every_cuda_call_exists_in_cuda_python_and_in_the_stand_in() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    source = Path(cuda_memory.__file__).read_text()
    used = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and re.match("cuda[A-Z]", node.attr)
    } - {"cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"}

    assert len(used) > 12
    assert [name for name in sorted(used) if not hasattr(runtime, name)] == []
    assert [name for name in sorted(used) if not hasattr(CudaStandIn, name)] == []
    assert int(runtime.cudaMemcpyKind.cudaMemcpyHostToDevice) == CudaStandIn.cudaMemcpyKind.cudaMemcpyHostToDevice
    assert int(runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost) == CudaStandIn.cudaMemcpyKind.cudaMemcpyDeviceToHost


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_driver_present(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("flavour", ["tensorrt", "rtx"])
def test_a_real_engine_agrees_with_the_onnx_reference(tmp_path: Path, flavour: Any) -> None:
    pytest.importorskip("tensorrt" if flavour == "tensorrt" else "tensorrt_rtx")
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    from export.tensorrt_builder import BatchProfile, engine_from_onnx
    from harness.core.progress import SILENT

    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>'
        "agraph (float[batch, 3, 32, 32] image) => (float[batch, 3] logits)"
        "{ relu = Relu (image) pooled = GlobalAveragePool (relu) logits = Flatten (pooled) }"
    )
    onnx_path, engine_path = tmp_path / "fp32.onnx", tmp_path / f"fp32.{flavour}.engine"
    onnx.save(model, onnx_path)
    built = engine_from_onnx(
        onnx_path,
        flavour=flavour,
        input_name="image",
        image_px=32,
        profile=BatchProfile(),
        workspace_bytes=1 << 30,
        progress=SILENT,
    )
    with engine_path.open("wb") as stream:
        stream.write(memoryview(built.plan))
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    backend = load(_request(engine_path, batch_size=4, image_px=32, class_count=3))
    try:
        backend.bind(images)
        backend.step()
        backend.sync()
        (expected,) = ReferenceEvaluator(model).run(None, {"image": images})
        np.testing.assert_allclose(backend.fetch(), expected, rtol=1e-4, atol=1e-5)
        assert backend.describe().departures == []
        assert backend.describe().device
    finally:
        backend.close()
