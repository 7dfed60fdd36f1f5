"""A double of ONNX Runtime with a CUDA provider: the real library's CPU computes, on the memory of the double of CUDA.

A run is enqueued, and computes when the stream is waited for.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnxruntime

from tests.stand_ins.cuda import CudaStandIn

_CUDA = "CUDAExecutionProvider"


class OnnxRuntimeStandIn:
    """The names that are used of the module; `assigned` is what the record will say, `tf32` what the option reads."""

    __version__ = onnxruntime.__version__

    def __init__(self, cuda: CudaStandIn) -> None:
        self.cuda = cuda
        self.assigned = [(_CUDA, 3)]
        self.providers = [_CUDA, "CPUExecutionProvider"]
        self.tf32: str | None = None
        self.sessions: list[_Session] = []

    def SessionOptions(self) -> _Entries:
        return _Entries()

    def RunOptions(self) -> _Entries:
        return _Entries()

    def InferenceSession(self, path: str, options: _Entries, *, providers: list[Any], enable_fallback: int) -> _Session:
        assert enable_fallback == 0
        assert options.entries["session.disable_cpu_ep_fallback"] == "1"
        ((name, given),) = providers
        assert name == _CUDA
        assert int(given["user_compute_stream"]) in self.cuda.streams
        session = _Session(self, path, given)
        self.sessions.append(session)
        return session


class _Entries:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value

    add_run_config_entry = add_session_config_entry


class _Binding:
    """What the real binding is told, with the CPU in the place of the GPU."""

    def __init__(self, session: _Session) -> None:
        self.real = session.real.io_binding()

    def bind_input(self, name: str, device: str, index: int, dtype: Any, shape: Any, address: int) -> None:
        assert (device, index) == ("cuda", 0)
        self.real.bind_input(name, "cpu", 0, dtype, shape, address)

    def bind_output(self, name: str, device: str, index: int, dtype: Any, shape: Any, address: int) -> None:
        assert (device, index) == ("cuda", 0)
        self.real.bind_output(name, "cpu", 0, dtype, shape, address)


class _Session:
    def __init__(self, module: OnnxRuntimeStandIn, path: str, options: dict[str, str]) -> None:
        self.module, self.options = module, options
        self.real = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs
        self.get_modelmeta = self.real.get_modelmeta

    def io_binding(self) -> _Binding:
        return _Binding(self)

    def run_with_iobinding(self, binding: _Binding, options: _Entries) -> None:
        assert options.entries == {"disable_synchronize_execution_providers": "1"}
        self.module.cuda.enqueue(lambda: self.real.run_with_iobinding(binding.real))

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        tf32 = self.module.tf32 or self.options["use_tf32"]
        return {_CUDA: self.options | {"use_tf32": tf32}}

    def get_providers(self) -> list[str]:
        return self.module.providers

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [object()] * count)
            for name, count in self.module.assigned
        ]
