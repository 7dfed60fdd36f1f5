"""A double of cuda.bindings.runtime: host memory as device memory, a stream that does nothing before it is waited for.

A missing synchronisation shows as wrong numbers, and so does work that runs while a graph is recorded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class CudaStandIn:
    """cuda.bindings.runtime on host memory; `failing` names a call that reports an error instead."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaEventDefault = 0
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, *, devices: int = 1) -> None:
        self.devices = devices
        self.failing = ""
        self.memory: dict[int, Any] = {}
        self.on_device: set[int] = set()
        self.streams: set[int] = set()
        self.queue: list[Callable[[], object]] = []
        self.calls: list[str] = []
        self.events: dict[int, int] = {}
        self.recording: list[Callable[[], object]] | None = None
        self.recording_is_valid = True
        self.graphs: dict[int, list[Callable[[], object]]] = {}
        self.executables: dict[int, list[Callable[[], object]]] = {}
        self.clock_ms = 0

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
        return self._call("cudaGetDeviceProperties", SimpleNamespace(name=b"Stand-in GPU\0\0", major=8, minor=9))

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        answer = self._call("cudaStreamCreateWithFlags", 7)
        if answer[0] == 0:
            self.streams.add(7)
        return answer

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        self.streams.remove(stream)
        return self._call("cudaStreamDestroy")

    def enqueue(self, work: Callable[[], object], *, capturable: bool = True) -> None:
        """Put work on the stream, or into the graph that is being recorded, where it does not run."""
        if self.recording is None:
            self.queue.append(work)
        else:
            self.recording.append(work)
            self.recording_is_valid &= capturable

    def run_all(self) -> None:
        """Let the device work off its queue; each piece of work, marks too, takes a millisecond of its clock."""
        while self.queue:
            self.clock_ms += 1
            self.queue.pop(0)()

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        assert stream in self.streams
        assert self.recording is None, "waiting is no work that a graph can hold"
        self.run_all()
        return self._call("cudaStreamSynchronize")

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        answer = self._call("cudaEventCreateWithFlags", 100 + len(self.events))
        if answer[0] == 0:
            self.events[answer[1]] = -1
        return answer

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        del self.events[event]
        return self._call("cudaEventDestroy")

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        assert event in self.events
        assert stream in self.streams
        assert self.recording is None
        self.events[event] = -1
        self.enqueue(lambda: self.events.__setitem__(event, self.clock_ms))
        return self._call("cudaEventRecord")

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        if -1 in (self.events[start], self.events[end]):
            return 600, None  # cudaErrorNotReady
        return self._call("cudaEventElapsedTime", float(self.events[end] - self.events[start]))

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        used_bytes = sum(len(block) for address, block in self.memory.items() if address in self.on_device)
        return self._call("cudaMemGetInfo", 10**9 - used_bytes, 10**9)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        assert stream in self.streams
        assert mode == self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert self.queue == [], "recorded before the work in hand was done"
        answer = self._call("cudaStreamBeginCapture")
        if answer[0] == 0:
            self.recording, self.recording_is_valid = [], True
        return answer

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        assert self.recording is not None
        recorded, self.recording = self.recording, None
        if not self.recording_is_valid:
            return 901, None  # cudaErrorStreamCaptureInvalidated
        answer = self._call("cudaStreamEndCapture", 1000 + len(self.graphs))
        if answer[0] == 0:
            self.graphs[answer[1]] = recorded
        return answer

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        answer = self._call("cudaGraphInstantiate", 2000 + len(self.executables))
        if answer[0] == 0:
            self.executables[answer[1]] = list(self.graphs[graph])
        return answer

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        del self.graphs[graph]
        return self._call("cudaGraphDestroy")

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:
        assert stream in self.streams
        self.queue.extend(self.executables[executable])
        return self._call("cudaGraphLaunch")

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:
        assert self.queue == [], "destroyed while it may still run"
        del self.executables[executable]
        return self._call("cudaGraphExecDestroy")

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return self._call("cudaGetLastError")

    def _allocate(self, name: str, size_bytes: int) -> tuple[Any, ...]:
        block = (ctypes.c_ubyte * size_bytes)()
        answer = self._call(name, ctypes.addressof(block))
        if answer[0] == 0:
            self.memory[answer[1]] = block
        return answer

    def cudaHostAlloc(self, size_bytes: int, flags: int) -> tuple[Any, ...]:
        return self._allocate("cudaHostAlloc", size_bytes)

    def cudaMalloc(self, size_bytes: int) -> tuple[Any, ...]:
        answer = self._allocate("cudaMalloc", size_bytes)
        self.on_device.add(answer[1])
        return answer

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self.memory[address]
        return self._call("cudaFreeHost")

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.memory[address]
        self.on_device.remove(address)
        return self._call("cudaFree")

    def cudaMemcpyAsync(self, target: int, source: int, size_bytes: int, kind: int, stream: int) -> tuple[Any, ...]:
        assert stream in self.streams
        assert all(len(self.memory[address]) == size_bytes for address in (target, source))
        self.enqueue(lambda: ctypes.memmove(target, source, size_bytes))
        return self._call("cudaMemcpyAsync")
