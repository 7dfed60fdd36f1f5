"""One file per runtime; bench.backends.interface says what each must offer, docs/backends.md how to add one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Name on the command line -> module with `load(LoadRequest) -> Backend`.
BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "pytorch": "bench.backends.pytorch_eager",
        "onnxruntime": "bench.backends.onnx_runtime",
        "openvino": "bench.backends.openvino_cpu",
        "tensorrt": "bench.backends.tensorrt_engine",
    }
)
