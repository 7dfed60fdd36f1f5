"""Which backends this machine can run, found out without importing any of their libraries.

`harness doctor` tries them; here only what is not there at all is told, so that a trial becomes a row in words.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib import util
from pathlib import Path

from bench.backends import BACKENDS, DEFAULT_BACKENDS
from harness.core.tensorrt_flavour import gpu_driver_present

_MODULES = {"pytorch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
_NO_DRIVER = "no NVIDIA driver on this machine"


def default_backends() -> tuple[str, ...]:
    """Return the backends used where none is named; without a GPU driver, none of the `-cuda` ones is among them."""
    driver = gpu_driver_present()
    return tuple(name for name in DEFAULT_BACKENDS if driver or not name.endswith("-cuda"))


def why_unavailable(backend: str) -> str:
    """Return in words why this machine cannot run a backend, "" where nothing speaks against it."""
    assert backend in BACKENDS, backend
    family = backend.partition("-")[0]
    if family == "tensorrt":
        return _why_no_tensorrt(backend)
    module = _MODULES[family]
    if not is_installed(module):
        return f"{module} is not installed"
    if backend.endswith("-cuda"):
        if not gpu_driver_present():
            return _NO_DRIVER
        if not _has_cuda_library(module):
            return f"{module} is installed without CUDA"
    if backend == "onnxruntime-cuda":
        return "" if is_installed("cuda.bindings") else "cuda-python is not installed"
    return why_no_compiler() if "-compile" in backend else ""


def why_no_compiler() -> str:
    """Return what torch.compile lacks to build the code that it writes, "" where it has a compiler and headers."""
    compiler = os.environ.get("CXX", "g++")  # Which is torch's own rule.
    if shutil.which(compiler) is None:
        return f"torch.compile needs a C++ compiler, and there is no {compiler}"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "torch.compile needs the headers of Python (python3-dev), which are not installed"
    return ""


def _why_no_tensorrt(backend: str) -> str:
    if not gpu_driver_present():
        return _NO_DRIVER
    if backend == "tensorrt-pycuda":
        return "" if is_installed("pycuda") else "pycuda is not installed"
    if is_installed("cuda.bindings") or (backend == "tensorrt" and is_installed("pycuda")):
        return ""
    return "cuda-python is not installed"


def is_installed(module: str) -> bool:
    """Tell whether a module is there, without importing it."""
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:  # Not even the package that it would be in.
        return False


def _has_cuda_library(module: str) -> bool:
    """Tell whether a package brought its library for CUDA; its version does not say."""
    found = util.find_spec(module)
    if found is None or found.origin is None:
        return False
    pattern = "lib/*torch_cuda.*" if module == "torch" else "capi/*onnxruntime_providers_cuda.*"
    return any(Path(found.origin).parent.glob(pattern))
