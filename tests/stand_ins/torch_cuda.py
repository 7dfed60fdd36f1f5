"""A double of torch.cuda for tensors that lie on the CPU: nothing is late here, so the order of the calls is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TorchCudaStandIn:
    """Streams and events that write down what was done, and on which stream."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.current: _Stream | None = None
        self.clock_ms = 0.0

    def Stream(self) -> _Stream:
        return _Stream(self)

    def Event(self, *, enable_timing: bool) -> _Event:
        assert enable_timing
        return _Event(self)

    @contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        self.said.append("on the stream")
        self.current = stream
        yield
        self.current = None
        self.said.append("off the stream")

    def synchronize(self) -> None:
        self.said.append("device waited for")

    def max_memory_allocated(self) -> int:
        return 12345

    def get_device_name(self, index: int) -> str:
        assert index == 0
        return "Stand-in GPU"


class _Stream:
    def __init__(self, cuda: TorchCudaStandIn) -> None:
        self.cuda = cuda

    def synchronize(self) -> None:
        self.cuda.said.append("waited")


class _Event:
    def __init__(self, cuda: TorchCudaStandIn) -> None:
        self.cuda = cuda
        self.at_ms = -1.0

    def record(self, stream: _Stream) -> None:
        assert self.cuda.current is stream
        self.cuda.clock_ms += 1
        self.at_ms = self.cuda.clock_ms
        self.cuda.said.append("marked")

    def elapsed_time(self, end: _Event) -> float:
        return end.at_ms - self.at_ms
