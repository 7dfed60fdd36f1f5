"""The same device memory through pycuda, for whoever has it already; bench.backends.cuda_memory is the default.

Not run on a GPU yet: tested with a stand-in for the driver interface. pycuda frees what it allocated when the last
Python object that names it goes, so everything is held here, and freed here by name and in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.backends.device_memory import Transfer
from harness.core.errors import BackendError

# CU_STREAM_NON_BLOCKING, which pycuda has no name for.
_NON_BLOCKING = 1


class PycudaMemory:
    """The body of DeviceMemory on top of `pycuda.driver`; a current context is the caller's to see to."""

    library = "pycuda"

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._release = ExitStack()
        with self._told(), ExitStack() as undo:
            undo.callback(self._release.close)
            self._stream: Any = driver.Stream(_NON_BLOCKING)
            self._release.callback(self._drop_stream)
            self._start, self._end = driver.Event(), driver.Event()
            self._free_at_first_bytes = driver.mem_get_info()[0]
            self.stream_handle = int(self._stream.handle)
            undo.pop_all()
        self._open = True

    def transfer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Transfer:
        with self._told():
            host = self._driver.pagelocked_empty(shape, np.dtype(dtype))
            self._release.callback(host.base.free)
            allocation = self._driver.mem_alloc(host.nbytes)
            self._release.callback(allocation.free)  # This names it, too, which keeps it.
        return Transfer(host=host, host_address=int(host.ctypes.data), device_address=int(allocation))

    def copy_to_device(self, memory: Transfer) -> None:
        with self._told():
            self._driver.memcpy_htod_async(memory.device_address, memory.host, self._stream)

    def copy_to_host(self, memory: Transfer) -> None:
        with self._told():
            self._driver.memcpy_dtoh_async(memory.host, memory.device_address, self._stream)

    def synchronise(self) -> None:
        if self._open:
            with self._told():
                self._stream.synchronize()

    def mark_start(self) -> None:
        """Note the time on the device, when the stream gets here."""
        with self._told():
            self._start.record(self._stream)

    def mark_end(self) -> None:
        with self._told():
            self._end.record(self._stream)

    def elapsed_s(self) -> float:
        """Return the device's time between the two marks; both must have been reached (`synchronise`)."""
        with self._told():
            return float(self._end.time_since(self._start)) / 1e3

    def used_bytes(self) -> int:
        """Return by how much the device's free memory fell since this was opened, by whomever."""
        with self._told():
            return int(self._free_at_first_bytes - self._driver.mem_get_info()[0])

    def device_name(self) -> str:
        with self._told():
            return str(self._driver.Context.get_device().name())

    def compute_capability(self) -> str:
        """Return the GPU's in NVIDIA's short form: SM89 is 8.9."""
        with self._told():
            major, minor = self._driver.Context.get_device().compute_capability()
        return f"SM{major}{minor}"

    def close(self) -> None:
        self._open = False
        with self._told():
            self._release.close()  # Every call is made, even after one failed; the second time there is none.

    def _drop_stream(self) -> None:
        """Let pycuda destroy events and stream, which it does when nothing names them any more."""
        self._start = self._end = self._stream = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Put an error of pycuda into words; all of them are of one family."""
        try:
            yield
        except self._driver.Error as error:
            raise BackendError(
                f"CUDA reports through pycuda: {error}.",
                hint="See `nvidia-smi`: is the driver new enough, and is memory free on the GPU?",
            ) from error
