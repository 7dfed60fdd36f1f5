"""Device memory, pinned host memory, one stream, events and graphs through cuda-python, every call checked.

Not run on a GPU yet: tested with a stand-in runtime whose device memory is real memory.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.backends.device_memory import Transfer
from harness.core.errors import BackendError


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Work recorded as a CUDA graph: `launch` enqueues all of it again. To be closed before what it works on is."""

    launch: Callable[[], None]
    close: Callable[[], None]


class CudaMemory:
    """The body of DeviceMemory that needs no compiler to install, and the one that records CUDA graphs."""

    library = "cuda-python"

    def __init__(self, cuda_runtime: Any) -> None:
        self._cuda_runtime = cuda_runtime
        self._release = ExitStack()
        if self._done(cuda_runtime.cudaGetDeviceCount()) == 0:
            raise BackendError("The NVIDIA driver shows no GPU.", hint="Check the GPU with `nvidia-smi`.")
        self._done(cuda_runtime.cudaSetDevice(0))
        with ExitStack() as undo:
            undo.callback(self._release.close)
            # Not the default stream, on which TensorRT synchronises the whole device around each inference.
            self._stream = self._done(cuda_runtime.cudaStreamCreateWithFlags(cuda_runtime.cudaStreamNonBlocking))
            self._release.callback(lambda: self._done(cuda_runtime.cudaStreamDestroy(self._stream)))
            self.stream_handle = int(self._stream)
            self._start, self._end = self._event(), self._event()
            # After the stream, so that the context is there already and is not counted.
            self._free_at_first_bytes = self._free_bytes()
            undo.pop_all()
        self._open = True

    def transfer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Transfer:
        cuda_runtime = self._cuda_runtime
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        host_address = int(self._done(cuda_runtime.cudaHostAlloc(size_bytes, cuda_runtime.cudaHostAllocDefault)))
        self._release.callback(lambda: self._done(cuda_runtime.cudaFreeHost(host_address)))
        device_address = int(self._done(cuda_runtime.cudaMalloc(size_bytes)))
        self._release.callback(lambda: self._done(cuda_runtime.cudaFree(device_address)))
        pinned = memoryview((ctypes.c_ubyte * size_bytes).from_address(host_address)).cast("B")
        host = np.frombuffer(pinned, dtype=dtype).reshape(shape)
        return Transfer(host=host, host_address=host_address, device_address=device_address)

    def copy_to_device(self, memory: Transfer) -> None:
        kind = self._cuda_runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(memory.device_address, memory.host_address, memory.host.nbytes, kind)

    def copy_to_host(self, memory: Transfer) -> None:
        kind = self._cuda_runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(memory.host_address, memory.device_address, memory.host.nbytes, kind)

    def synchronise(self) -> None:
        if self._open:
            self._done(self._cuda_runtime.cudaStreamSynchronize(self._stream))

    def mark_start(self) -> None:
        """Note the time on the device, when the stream gets here."""
        self._done(self._cuda_runtime.cudaEventRecord(self._start, self._stream))

    def mark_end(self) -> None:
        self._done(self._cuda_runtime.cudaEventRecord(self._end, self._stream))

    def elapsed_s(self) -> float:
        """Return the device's time between the two marks; both must have been reached (`synchronise`)."""
        return float(self._done(self._cuda_runtime.cudaEventElapsedTime(self._start, self._end))) / 1e3

    def used_bytes(self) -> int:
        """Return by how much the device's free memory (cudaMemGetInfo) fell since this was opened.

        Other processes on the GPU are counted too, the CUDA context is not.
        """
        return self._free_at_first_bytes - self._free_bytes()

    def recorded(self, enqueue: Callable[[], None]) -> Recording:
        """Record what `enqueue` puts on the stream as a CUDA graph.

        Nothing runs meanwhile, and what `enqueue` does on the host is not part of the graph. Raises BackendError
        where the work cannot be recorded; the stream is as usable then as before.
        """
        cuda_runtime = self._cuda_runtime
        mode = cuda_runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._done(cuda_runtime.cudaStreamBeginCapture(self._stream, mode))
        with ExitStack() as recording:
            recording.callback(self._abandon)
            enqueue()
            recording.pop_all()
        graph = self._done(cuda_runtime.cudaStreamEndCapture(self._stream))
        try:
            executable = self._done(cuda_runtime.cudaGraphInstantiate(graph, 0))
        finally:
            self._done(cuda_runtime.cudaGraphDestroy(graph))
        release = ExitStack()
        release.callback(lambda: self._done(cuda_runtime.cudaGraphExecDestroy(executable)))
        self._release.callback(release.close)
        return Recording(
            launch=lambda: self._done(cuda_runtime.cudaGraphLaunch(executable, self._stream)), close=release.close
        )

    def _abandon(self) -> None:
        """End a recording that failed: until then the stream takes no other work. Its error is known already."""
        status, *graph = self._cuda_runtime.cudaStreamEndCapture(self._stream)
        if int(status) == 0 and graph[0]:
            self._cuda_runtime.cudaGraphDestroy(graph[0])
        self._cuda_runtime.cudaGetLastError()  # Reading it clears it.

    def device_name(self) -> str:
        properties = self._done(self._cuda_runtime.cudaGetDeviceProperties(0))
        return str(properties.name.decode().rstrip("\0"))

    def compute_capability(self) -> str:
        """Return the GPU's in NVIDIA's short form: SM89 is 8.9."""
        properties = self._done(self._cuda_runtime.cudaGetDeviceProperties(0))
        return f"SM{properties.major}{properties.minor}"

    def close(self) -> None:
        self._open = False
        self._release.close()  # Every call is made, even after one failed; the second time there is none.

    def _event(self) -> Any:
        event = self._done(self._cuda_runtime.cudaEventCreateWithFlags(self._cuda_runtime.cudaEventDefault))
        self._release.callback(lambda: self._done(self._cuda_runtime.cudaEventDestroy(event)))
        return event

    def _free_bytes(self) -> int:
        status, free_bytes, _ = self._cuda_runtime.cudaMemGetInfo()
        self._done((status,))
        return int(free_bytes)

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any) -> None:
        self._done(self._cuda_runtime.cudaMemcpyAsync(target, source, size_bytes, kind, self._stream))

    def _done(self, answer: tuple[Any, ...]) -> Any:
        """Return what a call returned beside its status; raise BackendError where the status is an error."""
        status, *values = answer
        if int(status) != 0:
            name, words = (
                describe(status)[1].decode()
                for describe in (self._cuda_runtime.cudaGetErrorName, self._cuda_runtime.cudaGetErrorString)
            )
            raise BackendError(
                f"CUDA reports {name}: {words}.",
                hint="See `nvidia-smi`: is the driver new enough, and is memory free on the GPU?",
            )
        return values[0] if values else None
