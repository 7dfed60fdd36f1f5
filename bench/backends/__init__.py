"""Runtimes behind one interface: bench.backends.interface. How to add one: docs/backends.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.backends.interface import Backend, LoadRequest

# Name on the command line -> "module:function", the function being `(LoadRequest) -> Backend`.
BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "pytorch": "bench.backends.pytorch_cpu:load",
        "pytorch-compile": "bench.backends.pytorch_cpu:load_compiled",
        "pytorch-cuda": "bench.backends.pytorch_cuda:load",
        "pytorch-compile-cuda": "bench.backends.pytorch_cuda:load_compiled",
        "onnxruntime": "bench.backends.onnx_runtime:load",
        "onnxruntime-cuda": "bench.backends.onnx_runtime_cuda:load",
        "openvino": "bench.backends.openvino_cpu:load",
        "openvino-throughput": "bench.backends.openvino_throughput:load",
        "tensorrt": "bench.backends.tensorrt_loading:load",
        "tensorrt-graph": "bench.backends.tensorrt_loading:load_with_graph",
        "tensorrt-pycuda": "bench.backends.tensorrt_loading:load_through_pycuda",
    }
)
# The one that `x eager` compares with.
REFERENCE_BACKEND = "pytorch"
# What is used where none is named; bench.availability leaves the `-cuda` ones out where there is no GPU driver.
DEFAULT_BACKENDS = ("pytorch", "onnxruntime", "openvino", "tensorrt", "pytorch-cuda", "onnxruntime-cuda")


def loader_at(place: str) -> Callable[[LoadRequest], Backend]:
    """Return the function at a "module:function" of BACKENDS."""
    module, _, function = place.partition(":")
    loader: Callable[[LoadRequest], Backend] = getattr(import_module(module), function)
    return loader
