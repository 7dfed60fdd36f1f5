"""ONNX Runtime on the first GPU, strictly: a node that the CUDA provider does not take is an error.

Not run on a GPU yet: the logic is tested with a stand-in session that computes, the names against the library.

Left alone, ONNX Runtime gives such nodes to the CPU, and where CUDA cannot load at all, everything; it multiplies
float32 in TF32. Both are turned off, and what came of it is read back: the assignment record, the provider's options.
Input and output are bound to memory of our own (bench.backends.device_memory) on a stream of our own, so that copies
are from page-locked memory and the GPU's clock stands around the run. No CUDA graph: its own needs the same addresses
and is not asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.backends.device_memory import DeviceMemory, memory_through_cuda_python
from bench.backends.interface import Backend, Description, Float32s, Images, LoadRequest
from bench.backends.onnx_runtime import CPU_PROVIDER, assignment_departures, other_ends, refused, runtime_errors
from harness.core.errors import BackendError

_PROVIDER = "CUDAExecutionProvider"


def load(request: LoadRequest) -> Backend:
    """Load an ONNX file onto the GPU; raise BackendError where there is none, or a node would run elsewhere."""
    import onnxruntime

    onnxruntime.preload_dlls()  # The CUDA libraries that came with torch.
    return OnnxRuntimeCuda(request, onnxruntime=onnxruntime, open_memory=memory_through_cuda_python)


class OnnxRuntimeCuda:
    """A session on the GPU with fixed input and output memory there."""

    def __init__(self, request: LoadRequest, *, onnxruntime: Any, open_memory: Callable[[], DeviceMemory]) -> None:
        self._version: str = onnxruntime.__version__
        self._precision = request.form.precision
        self._shape, self._type = request.input_shape, np.dtype(request.input_type)
        self._session: Any = None
        self._binding: Any = None
        with ExitStack() as undo:
            self._cuda = open_memory()
            undo.callback(self.close)
            try:
                self._load(request, onnxruntime)
            except runtime_errors() as error:
                raise refused(request, error) from error
            undo.pop_all()

    def _load(self, request: LoadRequest, onnxruntime: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        provider = (
            _PROVIDER,
            {"device_id": "0", "use_tf32": "0", "user_compute_stream": str(self._cuda.stream_handle)},
        )
        self._session = onnxruntime.InferenceSession(
            str(request.artifact), options, providers=[provider], enable_fallback=0
        )
        # Else a run waits for the GPU before it returns, and the end of its time on the GPU would be noted too late.
        self._run_options = onnxruntime.RunOptions()
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._images = self._cuda.transfer(self._shape, self._type)
        self._logits = self._cuda.transfer((request.batch_size, request.class_count), np.float32)
        self._answers = self._cuda.transfer((request.batch_size,), np.int64) if request.form.probabilities else None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 + (self._answers is not None):
            raise other_ends(request, [each.name for each in (*inputs, *outputs)])
        self._binding = self._session.io_binding()
        memory = self._images
        self._binding.bind_input(inputs[0].name, "cuda", 0, self._type, self._shape, memory.device_address)
        for output, memory in zip(outputs, filter(None, (self._logits, self._answers)), strict=True):
            host = memory.host
            self._binding.bind_output(output.name, "cuda", 0, host.dtype, host.shape, memory.device_address)

    def bind(self, images: Images) -> None:
        """Copy the images to the device, and wait until they are there."""
        if images.shape != self._shape or images.dtype != self._type:
            raise BackendError(
                f"The images are {images.dtype} {images.shape}; loaded for {self._type} {self._shape}.",
                hint="Load the model for this batch size.",
            )
        np.copyto(self._images.host, images)
        self._cuda.copy_to_device(self._images)
        self._cuda.synchronise()

    def step(self) -> None:
        """Enqueue one inference between two marks of the device's clock; `sync` waits for it."""
        self._cuda.mark_start()
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except runtime_errors() as error:
            raise BackendError(
                f"ONNX Runtime failed: {error}", hint="Export it again: `harness export --force`."
            ) from error
        self._cuda.mark_end()

    def sync(self) -> None:
        self._cuda.synchronise()

    def fetch(self) -> Float32s:
        self._cuda.copy_to_host(self._logits)
        self._cuda.synchronise()
        return np.array(self._logits.host, copy=True)

    def fetch_answers(self) -> npt.NDArray[np.int64] | None:
        if self._answers is None:
            return None
        self._cuda.copy_to_host(self._answers)
        self._cuda.synchronise()
        return np.array(self._answers.host, copy=True)

    def device_time_s(self) -> float:
        """Return the GPU's time of the last step, without what the host did before and after."""
        return self._cuda.elapsed_s()

    def device_bytes(self) -> int:
        """Return by how much the GPU's free memory fell since this was loaded, other processes' doing included."""
        return self._cuda.used_bytes()

    def describe(self) -> Description:
        departures = assignment_departures(self._session, _PROVIDER)
        tf32 = self._session.get_provider_options().get(_PROVIDER, {}).get("use_tf32")
        if tf32 != "0":
            departures.append(f"use_tf32 reads {tf32}, asked for 0")
        used = [name for name in self._session.get_providers() if name != CPU_PROVIDER]  # Always listed, as the last.
        if used != [_PROVIDER]:
            departures.append(f"the session has {', '.join(used) or 'no provider for a GPU'}, asked for {_PROVIDER}")
        return Description(
            runtime=f"ONNX Runtime (CUDA, no CUDA graph, {self._cuda.library})",
            version=self._version,
            device=self._cuda.device_name(),
            precision=f"{self._precision} (TF32 {'off' if tf32 == '0' else 'on'})",
            threads=None,
            departures=departures,
            metadata=dict(self._session.get_modelmeta().custom_metadata_map),
        )

    def close(self) -> None:
        """Release everything, once: the session, then the memory and the stream that it uses."""
        with ExitStack() as last_first:
            last_first.callback(self._cuda.close)
            last_first.callback(self._drop)
            last_first.callback(self._cuda.synchronise)

    def _drop(self) -> None:
        self._binding = None
        self._session = None
