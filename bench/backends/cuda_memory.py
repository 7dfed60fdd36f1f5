"""Device memory, pinned host memory and one stream through cuda-python: every CUDA call of the project, each checked.

Not run on a GPU yet: tested with a stand-in runtime whose device memory is real memory.
"""

from __future__ import annotations

import ctypes
import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.errors import BackendError


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One tensor twice: page-locked host memory seen as an array, and its place on the device."""

    host: npt.NDArray[Any]
    device_address: int

    @property
    def host_address(self) -> int:
        return int(self.host.ctypes.data)


class CudaMemory:
    """All CUDA calls of this backend, each checked; owns one stream and the memory of the tensors."""

    def __init__(self, cuda_runtime: Any) -> None:
        self._cuda_runtime = cuda_runtime
        self._release = ExitStack()
        if self._done(cuda_runtime.cudaGetDeviceCount()) == 0:
            raise BackendError("The NVIDIA driver shows no GPU.", hint="Check the GPU with `nvidia-smi`.")
        self._done(cuda_runtime.cudaSetDevice(0))
        # Not the default stream, on which TensorRT synchronises the whole device around each inference.
        self._stream = self._done(cuda_runtime.cudaStreamCreateWithFlags(cuda_runtime.cudaStreamNonBlocking))
        self._release.callback(lambda: self._done(cuda_runtime.cudaStreamDestroy(self._stream)))
        self.stream_handle = int(self._stream)
        self._open = True

    def transfer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Transfer:
        cuda_runtime = self._cuda_runtime
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        host_address = int(self._done(cuda_runtime.cudaHostAlloc(size_bytes, cuda_runtime.cudaHostAllocDefault)))
        self._release.callback(lambda: self._done(cuda_runtime.cudaFreeHost(host_address)))
        device_address = int(self._done(cuda_runtime.cudaMalloc(size_bytes)))
        self._release.callback(lambda: self._done(cuda_runtime.cudaFree(device_address)))
        pinned = memoryview((ctypes.c_ubyte * size_bytes).from_address(host_address)).cast("B")
        return Transfer(host=np.frombuffer(pinned, dtype=dtype).reshape(shape), device_address=device_address)

    def copy_to_device(self, memory: Transfer) -> None:
        kind = self._cuda_runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(memory.device_address, memory.host_address, memory.host.nbytes, kind)

    def copy_to_host(self, memory: Transfer) -> None:
        kind = self._cuda_runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(memory.host_address, memory.device_address, memory.host.nbytes, kind)

    def synchronise(self) -> None:
        if self._open:
            self._done(self._cuda_runtime.cudaStreamSynchronize(self._stream))

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
