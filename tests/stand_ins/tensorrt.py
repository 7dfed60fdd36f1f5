"""A double of TensorRT: one engine of one matrix product, on the memory of the double of CUDA."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.stand_ins.cuda import CudaStandIn

PX, CLASSES = 4, 3
_NUMPY_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT64": np.int64}


class EngineStandIn:
    """An engine and its context in one: logits = images, flattened, times `weights`; answers are their argmax."""

    def __init__(self, cuda: CudaStandIn, types: tuple[str, str]) -> None:
        self.cuda = cuda
        self.tensors = {"image": types[0], "logits": types[1]}
        self.modes = {"image": "INPUT", "logits": "OUTPUT"}
        self.classes = CLASSES
        self.starts = True
        self.ran = False  # The first inference allocates, which no graph can hold.
        self.always_allocates = False
        self.capturable = True
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.inspection = "{}"
        self.runtime_config = SimpleNamespace()
        self.configs: list[Any] = []
        self.image_shape: tuple[int, ...] = (3, PX, PX)
        self.validity = ("VALID", 0)
        self.runtimes: list[weakref.ref[Any]] = []
        self.weights = np.random.default_rng(3).normal(size=(3 * PX * PX, CLASSES)).astype(np.float32)

    def take_pixels(self) -> None:
        self.tensors["image"], self.image_shape = "UINT8", (PX, PX, 3)

    def give_answers(self) -> None:
        self.tensors["answer"], self.modes["answer"] = "INT64", "OUTPUT"

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return self.modes[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [(size, *self.image_shape) for size in (1, 2, 4)]

    def create_runtime_config(self) -> Any:
        return self.runtime_config

    def create_execution_context(self, *config: Any) -> EngineStandIn:
        self.configs.extend(config)
        return self

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _format: self.inspection)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return 1 <= shape[0] <= 4 and shape[1:] == self.image_shape

    def is_stream_capturable(self, stream_handle: int) -> bool:
        assert stream_handle in self.cuda.streams
        return self.capturable

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
        logits = images.reshape(self.shape[0], -1) @ self.weights
        self._array("logits", logits.shape)[:] = logits
        if "answer" in self.tensors:
            self._array("answer", (self.shape[0],))[:] = logits.argmax(axis=1)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle in self.cuda.streams
        if self.starts:
            self.cuda.enqueue(self._compute, capturable=self.ran and not self.always_allocates)
            self.ran = True
        return self.starts


class _Severity(int):
    name = "ERROR"


class RuntimeStandIn:
    """The plan b"plan" gives the engine, all others None and a line in the log; validity is as the engine says."""

    engine_host_code_allowed = False

    def __init__(self, engine: EngineStandIn, logger: Any) -> None:
        self.engine = engine
        self.logger = logger

    def deserialize_cuda_engine(self, plan: Any) -> EngineStandIn | None:
        if bytes(plan) == b"plan":
            return self.engine
        self.logger.log(_Severity(1), "the magic tag is wrong")
        self.logger.log(_Severity(3), "chatter")
        return None

    def get_engine_validity(self, plan: Any) -> tuple[str, int]:
        assert bytes(plan)
        return self.engine.validity


class TensorrtStandIn:
    """What the backend uses of the module."""

    __version__ = "11.4.0"
    TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    LayerInformationFormat = SimpleNamespace(JSON="JSON")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="EAGER")
    CudaGraphStrategy = SimpleNamespace(DISABLED="DISABLED", WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE")
    EngineValidity = SimpleNamespace(INVALID="INVALID")
    EngineInvalidityDiagnostics = SimpleNamespace(__members__={"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2})

    class ILogger:
        WARNING = 2

    def __init__(self, engine: EngineStandIn) -> None:
        self.engine = engine

    def Runtime(self, logger: Any) -> Any:
        runtime = RuntimeStandIn(self.engine, logger)
        self.engine.runtimes.append(weakref.ref(runtime))
        return runtime
