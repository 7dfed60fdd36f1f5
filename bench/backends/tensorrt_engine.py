"""An engine of TensorRT or TensorRT-RTX on the first GPU.

Not run on a GPU yet: the logic is tested with a stand-in that computes, the names against both libraries.

Pinned host buffers, one non-blocking stream, the input shape set once. `bind` returns when the images are on
the device, so that compute (step + sync) holds no transfer; a cast to a float16 input happens in `bind` too.
TensorRT-RTX compiles at run time: kernels are specialised eagerly (the lazy default would time fallback kernels).

With a CUDA graph, TensorRT's inference is recorded once, after it ran once (bench.backends.tensorrt_graph), and a step
launches the record; TensorRT-RTX does that by itself. Without one both launch kernel by kernel. Either is said in the
description, and a graph that cannot be recorded is an error: never quietly the other way.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.backends.cuda_memory import CudaMemory, Recording
from bench.backends.device_memory import DeviceMemory
from bench.backends.interface import Description, Float32s, Images, LoadRequest
from bench.backends.layer_types import departures, layer_types
from bench.backends.tensorrt_differences import (
    RUNTIMES,
    allow_host_code_tensorrt,
    context_rtx,
    graph_departures_rtx,
    invalidity_rtx,
    kept_log,
)
from harness.core.errors import BackendError
from harness.core.tensorrt_flavour import Flavour

NUMPY_TYPES: dict[str, npt.DTypeLike] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "UINT8": np.uint8,
    "INT64": np.int64,
}
_REBUILD = "Build the engine again for this GPU and this version: `harness export --trt --force`."


class TensorrtEngine:
    """One engine and one execution context for one batch size."""

    def __init__(
        self,
        request: LoadRequest,
        flavour: Flavour,
        *,
        tensorrt: Any,
        open_memory: Callable[[], DeviceMemory],
        version_compatible: bool = False,
        graph: bool = False,
    ) -> None:
        self._artifact = request.artifact
        self._flavour = flavour
        self._graph = graph
        self._precision = request.form.precision
        self._version: str = tensorrt.__version__
        self._json_format = tensorrt.LayerInformationFormat.JSON
        self._log: list[str] = []
        self._ready = False  # Set by the first bind; every other verb needs it.
        self._recording: Recording | None = None
        # Never in local variables: a traceback would keep them alive after close.
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        with ExitStack() as undo:
            self._cuda = open_memory()
            undo.callback(self.close)
            self._load(tensorrt, version_compatible)
            self._prepare(tensorrt, request)
            undo.pop_all()

    def _load(self, trt: Any, version_compatible: bool) -> None:
        self._logger = kept_log(trt, self._log)
        self._runtime = trt.Runtime(self._logger)
        if version_compatible:
            allow_host_code_tensorrt(self._runtime)
        # Mapped, because reading it would hold hundreds of megabytes twice.
        with (
            self._artifact.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as plan,
        ):
            if self._flavour == "rtx" and (causes := invalidity_rtx(trt, self._runtime, plan)):
                raise self._refused(
                    f"is not for this GPU, an {self._cuda.compute_capability()}: {', '.join(causes)}", _REBUILD
                )
            self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._refused("cannot be loaded", _REBUILD)
        self._context = (
            context_rtx(trt, self._engine, graph=self._graph)
            if self._flavour == "rtx"
            else self._engine.create_execution_context()
        )
        if self._context is None:
            raise self._refused("got no execution context", "The GPU may lack memory: see `nvidia-smi`.")

    def _prepare(self, trt: Any, request: LoadRequest) -> None:
        """Fix the input shape and give both tensors their memory."""
        modes = {
            name: self._engine.get_tensor_mode(name)
            for name in (self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors))
        }
        inputs = [name for name, mode in modes.items() if mode == trt.TensorIOMode.INPUT]
        outputs = [name for name, mode in modes.items() if mode == trt.TensorIOMode.OUTPUT]
        if len(inputs) != 1 or len(outputs) != 1 + request.form.probabilities:
            raise self._refused(f"has inputs {inputs} and outputs {outputs}, which is no {request.variant}", _REBUILD)
        (input_name,), (output_name, *answer_names) = inputs, outputs
        self._shape, self._type = request.input_shape, np.dtype(request.input_type)
        if not self._context.set_input_shape(input_name, self._shape):
            ranges = [tuple(shape) for shape in self._engine.get_tensor_profile_shape(input_name, 0)]
            raise self._refused(
                f"does not take {self._shape}; it was built for {' / '.join(map(str, ranges))}",
                "Ask for a batch size between the engine's least and greatest, or build another engine.",
            )
        if missing := self._context.infer_shapes():
            raise self._refused(f"needs more shapes: {missing}", _REBUILD)
        logits_shape = tuple(self._context.get_tensor_shape(output_name))
        if logits_shape != (request.batch_size, request.class_count):
            raise self._refused(f"gives {logits_shape} for {request.class_count} classes", _REBUILD)
        if (self._type_name(input_name) == "UINT8") != request.form.uint8_input:
            raise self._refused(f"takes {self._type_name(input_name)}, which is no {request.variant}", _REBUILD)
        self._images = self._cuda.transfer(self._shape, self._numpy_type(input_name))
        self._logits = self._cuda.transfer(logits_shape, self._numpy_type(output_name))
        tensors = [(input_name, self._images), (output_name, self._logits)]
        self._answers = None
        for name in answer_names:
            self._answers = self._cuda.transfer((request.batch_size,), self._numpy_type(name))
            tensors.append((name, self._answers))
        for name, memory in tensors:
            if not self._context.set_tensor_address(name, memory.device_address):
                raise self._refused(f"does not accept memory for {name}", _REBUILD)
        self._types_in_words = f"{self._type_name(input_name)} to {self._type_name(output_name)}"

    def bind(self, images: Images) -> None:
        """Copy the images to the device, and wait until they are there."""
        if self._context is None:
            raise _out_of_order()
        if images.shape != self._shape or images.dtype != self._type:
            raise BackendError(
                f"The images are {images.dtype} {images.shape}; loaded for {self._type} {self._shape}.",
                hint="Load the engine for this batch size.",
            )
        np.copyto(self._images.host, images, casting="same_kind")
        self._cuda.copy_to_device(self._images)
        self._cuda.synchronise()
        if self._graph and self._flavour == "tensorrt" and not self._ready:
            self._record()
        self._ready = True

    def _record(self) -> None:
        """Record one inference as a CUDA graph, after one that ran: the first allocates, which no graph may hold."""
        assert isinstance(self._cuda, CudaMemory), "the only body that records"
        self._enqueue()
        self._cuda.synchronise()
        try:
            self._recording = self._cuda.recorded(self._enqueue)
        except BackendError as error:
            raise self._refused(
                f"cannot be recorded as a CUDA graph: {error.message}", "Use `--backend tensorrt`, which records none."
            ) from error

    def step(self) -> None:
        """Enqueue one inference between two marks of the device's clock; `sync` waits for it."""
        if not self._ready:
            raise _out_of_order()
        launch = self._recording.launch if self._recording else self._enqueue
        self._cuda.mark_start()
        launch()
        self._cuda.mark_end()

    def device_time_s(self) -> float:
        """Return the GPU's time of the last step, without what the host did before and after."""
        if not self._ready:
            raise _out_of_order()
        return self._cuda.elapsed_s()

    def device_bytes(self) -> int:
        """Return by how much the GPU's free memory fell since this was loaded, other processes' doing included."""
        return self._cuda.used_bytes()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream_handle):
            raise self._refused("did not start", "Run it again with an idle GPU; see `nvidia-smi`.")

    def sync(self) -> None:
        """Wait for everything enqueued; errors of the kernels surface here."""
        if not self._ready:
            raise _out_of_order()
        self._cuda.synchronise()

    def fetch(self) -> Float32s:
        """Copy the logits to the host and return them as float32 that the caller owns."""
        if not self._ready:
            raise _out_of_order()
        self._cuda.copy_to_host(self._logits)
        self._cuda.synchronise()
        return np.array(self._logits.host, dtype=np.float32)

    def fetch_answers(self) -> npt.NDArray[np.int64] | None:
        """Copy the second output to the host, where the engine has one."""
        if not self._ready:
            raise _out_of_order()
        if self._answers is None:
            return None
        self._cuda.copy_to_host(self._answers)
        self._cuda.synchronise()
        return np.array(self._answers.host, dtype=np.int64)

    def describe(self) -> Description:
        """Say what runs: the types of tensors and layers come from the engine itself."""
        if self._context is None:
            raise _out_of_order()
        layers = layer_types(self._inspection())
        told = f"layers {', '.join(sorted(layers))}" if layers else "layer types not told by the engine"
        return Description(
            runtime=f"{RUNTIMES[self._flavour]} ({'a' if self._graph else 'no'} CUDA graph, {self._cuda.library})",
            version=self._version,
            device=self._cuda.device_name(),
            precision=f"{self._precision} requested; {told}; {self._types_in_words}",
            threads=None,
            departures=[*departures(self._precision, layers), *self._graph_departures()],
        )

    def _graph_departures(self) -> list[str]:
        if self._flavour == "rtx" and self._graph:
            return graph_departures_rtx(self._context, self._cuda.stream_handle)
        return []

    def close(self) -> None:
        """Release everything, once: graph, context, engine, runtime, then buffers and stream. Safe to call again."""
        self._ready = False
        with ExitStack() as last_first:
            last_first.callback(self._cuda.close)
            last_first.callback(self._drop)
            if self._recording is not None:
                last_first.callback(self._recording.close)
            last_first.callback(self._cuda.synchronise)

    def _drop(self) -> None:
        self._recording = None
        self._context = None
        self._engine = None
        self._runtime = None

    def _inspection(self) -> str:
        inspector = self._engine.create_engine_inspector()
        if inspector is None:
            return ""
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(self._json_format))

    def _type_name(self, tensor: str) -> str:
        return str(self._engine.get_tensor_dtype(tensor).name)

    def _numpy_type(self, tensor: str) -> npt.DTypeLike:
        name = self._type_name(tensor)
        if name not in NUMPY_TYPES:
            raise self._refused(
                f"has {tensor} in {name}, which the benchmark neither feeds nor reads",
                "Build the engine again: `harness export --trt --force`.",
            )
        return NUMPY_TYPES[name]

    def _refused(self, what: str, hint: str) -> BackendError:
        told = "".join(f"\n  {line}" for line in self._log)
        return BackendError(f"{self._artifact.name} {what} (TensorRT {self._version}).{told}", hint=hint)


def _out_of_order() -> BackendError:
    return BackendError(
        "The engine is closed, or no images were bound.",
        hint="A bug in the benchmark: call bind first, close last.",
    )
