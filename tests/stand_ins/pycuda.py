"""A double of pycuda.driver on the memory and the stream of the double of CUDA.

As the real one it takes no status from anywhere but raises, frees what nobody names any more, and gives host memory as
an array whose base frees it.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.stand_ins.cuda import CudaStandIn


class _Host(np.ndarray[Any, Any]):
    """An array that can be given a base with `free`, as pycuda's PagelockedHostAllocation is."""

    allocation: Any = None

    @property
    def base(self) -> Any:
        return self.allocation


class PycudaStandIn:
    """The names of pycuda.driver that are used; `cuda.failing` is the call of the CUDA runtime that fails below it."""

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    def __init__(self, cuda: CudaStandIn) -> None:
        self.cuda = cuda
        self.Context = SimpleNamespace(
            get_device=lambda: SimpleNamespace(name=lambda: "Stand-in GPU", compute_capability=lambda: (8, 9))
        )

    def _checked(self, answer: tuple[Any, ...]) -> Any:
        if answer[0] != 0:
            raise self.LogicError("cuSomething failed: out of memory")
        return answer[1] if len(answer) > 1 else None

    def Stream(self, flags: int = 0) -> _Stream:
        assert flags == CudaStandIn.cudaStreamNonBlocking
        return _Stream(self)

    def Event(self) -> _Event:
        return _Event(self)

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._checked(self.cuda.cudaHostAlloc(size_bytes, 0))
        block = (ctypes.c_ubyte * size_bytes).from_address(address)
        array = np.frombuffer(block, dtype=dtype).reshape(shape).view(_Host)
        array.allocation = SimpleNamespace(free=lambda: self._checked(self.cuda.cudaFreeHost(address)))
        return array

    def mem_alloc(self, size_bytes: int) -> _Device:
        return _Device(self, self._checked(self.cuda.cudaMalloc(size_bytes)))

    def memcpy_htod_async(self, target: int, source: npt.NDArray[Any], stream: _Stream) -> None:
        self._checked(
            self.cuda.cudaMemcpyAsync(target, int(source.ctypes.data), source.nbytes, 1, stream.handle),
        )

    def memcpy_dtoh_async(self, target: npt.NDArray[Any], source: int, stream: _Stream) -> None:
        self._checked(
            self.cuda.cudaMemcpyAsync(int(target.ctypes.data), source, target.nbytes, 2, stream.handle),
        )

    def mem_get_info(self) -> tuple[int, int]:
        answer = self.cuda.cudaMemGetInfo()
        self._checked(answer)
        return answer[1], answer[2]


class _Device:
    def __init__(self, driver: PycudaStandIn, address: int) -> None:
        self.driver, self.address = driver, address

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.driver._checked(self.driver.cuda.cudaFree(self.address))
        self.address = 0

    def __del__(self) -> None:
        if self.address:
            self.free()


class _Stream:
    def __init__(self, driver: PycudaStandIn) -> None:
        self.cuda, self.driver = driver.cuda, driver
        self.handle: int = driver._checked(driver.cuda.cudaStreamCreateWithFlags(1))

    def synchronize(self) -> None:
        self.driver._checked(self.cuda.cudaStreamSynchronize(self.handle))

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self.cuda.cudaStreamDestroy(self.handle)


class _Event:
    def __init__(self, driver: PycudaStandIn) -> None:
        self.cuda, self.driver = driver.cuda, driver
        self.event: int = driver._checked(driver.cuda.cudaEventCreateWithFlags(0))

    def record(self, stream: _Stream) -> None:
        self.driver._checked(self.cuda.cudaEventRecord(self.event, stream.handle))

    def time_since(self, start: _Event) -> float:
        return float(self.driver._checked(self.cuda.cudaEventElapsedTime(start.event, self.event)))

    def __del__(self) -> None:
        if hasattr(self, "event"):
            self.cuda.cudaEventDestroy(self.event)
