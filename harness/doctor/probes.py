"""What is asked of each library, inside a process that exists for this one question: `python -P -m ... NAME ARGUMENT`.

A probe returns facts. It catches nothing: what a library raises is the answer. Libraries are imported by name, inside
the probes, because one that is absent or broken is the ordinary case here.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata, util
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, get_args

from harness.core.cases import Architecture
from harness.core.errors import DataError, HarnessError
from harness.core.tensorrt_flavour import Flavour, gpu_driver_present, imported_flavour

_FLAVOUR_MODULES: Mapping[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
_CPU_PROVIDER = "CPUExecutionProvider"
_INPUT, _OUTPUT = "image", "sums"
_CHANNELS, _SIDE_PX = 3, 8
_WORKSPACE_BYTES = 64 * 2**20


class _NotInstalledError(Exception):
    """The library is not there at all, which is no fault."""


def _imported(name: str) -> ModuleType:
    _check_installed(name)
    return importlib.import_module(name)


def _check_installed(name: str) -> None:
    try:
        found = util.find_spec(name) is not None
    except ModuleNotFoundError:  # Not even the package that it would be in.
        found = False
    if not found:
        raise _NotInstalledError(name)


def module(name: str) -> dict[str, Any]:
    """Import one module."""
    return {"version": str(getattr(_imported(name), "__version__", ""))}


def torch() -> dict[str, Any]:
    """Import torch and multiply with it; say what it computes on."""
    torch = _imported("torch")
    torch.ones(2, 2).mm(torch.ones(2, 2))  # Loads what an import alone does not.
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "devices": [_device(each.name, each.total_memory, each.major, each.minor) for each in devices],
    }


def imagenet() -> dict[str, Any]:
    """Look for the weights files that `--weights imagenet` would load, and hash those that are there."""
    _imported("torchvision")
    from harness.core.models import imagenet_file
    from harness.core.state_dicts import check_hash_of_name

    facts: dict[str, Any] = {"version": metadata.version("torchvision"), "files": {}}
    for architecture in get_args(Architecture):
        path, url = imagenet_file(architecture)
        problem = ""
        if path.is_file():
            try:
                check_hash_of_name(path, hint="")
            except DataError as error:
                problem = error.message
        facts["files"][architecture] = {
            "path": str(path),
            "url": url,
            "size_bytes": path.stat().st_size if path.is_file() else None,
            "problem": problem,
        }
    return facts


def onnxruntime() -> dict[str, Any]:
    """Import ONNX Runtime; the providers that it lists are not all able to load."""
    onnxruntime = _imported("onnxruntime")
    return {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


def onnxruntime_provider(name: str) -> dict[str, Any]:
    """Run a model on one provider alone, and read back where its nodes were computed."""
    onnxruntime, numpy = _imported("onnxruntime"), importlib.import_module("numpy")
    listed = onnxruntime.get_available_providers()
    if name not in listed:
        return {"listed": False, "runs": False}
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if name != _CPU_PROVIDER:
        # Without these a provider that does not load is replaced by the CPU's, without an error.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        onnxruntime.preload_dlls()  # The CUDA libraries that came with torch.
    session = onnxruntime.InferenceSession(_tiny_model(), options, providers=[name], enable_fallback=0)
    (sums,) = session.run(None, {_INPUT: numpy.ones((1, _CHANNELS, _SIDE_PX, _SIDE_PX), numpy.float32)})
    used_by = sorted({group.ep_name for group in session.get_provider_graph_assignment_info()})
    runs = session.get_providers()[0] == name and used_by == [name] and bool((sums == _CHANNELS).all())
    return {"listed": True, "runs": runs, "ran_on": used_by}


def openvino() -> dict[str, Any]:
    """Run a model on OpenVINO's CPU device, the one that `harness bench` uses, and name the devices."""
    openvino, numpy = _imported("openvino"), importlib.import_module("numpy")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(_tiny_model()), "CPU")
    sums = compiled([numpy.ones((1, _CHANNELS, _SIDE_PX, _SIDE_PX), numpy.float32)])[0]
    return {
        "version": metadata.version("openvino"),
        "devices": {name: core.get_property(name, "FULL_DEVICE_NAME") for name in core.available_devices},
        "runs": bool((sums == _CHANNELS).all()),
    }


def flavour(name: Flavour) -> dict[str, Any]:
    """Import a TensorRT flavour and build an engine, where it can build on this machine at all."""
    _check_installed(_FLAVOUR_MODULES[name])
    version = imported_flavour(name).__version__
    if name == "tensorrt" and not gpu_driver_present():
        return {"version": version, "targets": []}
    from export.engine_options import BatchProfile, EngineOptions
    from export.tensorrt_builder import engine_from_onnx
    from harness.core.progress import SILENT

    path = Path(tempfile.mkdtemp()) / "doctor.onnx"
    path.write_bytes(_tiny_model())
    engine = engine_from_onnx(
        path,
        flavour=name,
        input_name=_INPUT,
        input_shape=(1, _CHANNELS, _SIDE_PX, _SIDE_PX),
        profile=BatchProfile(optimum=1, maximum=1),
        options=EngineOptions(workspace_bytes=_WORKSPACE_BYTES),
        progress=SILENT,
    )
    return {"version": version, "targets": engine.targets}


def driver() -> dict[str, Any]:
    """Load NVIDIA's driver library."""
    return {"present": gpu_driver_present()}


def nvml() -> dict[str, Any]:
    """Ask NVIDIA's management library, which tells most and needs no CUDA."""
    pynvml = _imported("pynvml")
    pynvml.nvmlInit()
    devices = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory_bytes = pynvml.nvmlDeviceGetMemoryInfo(handle).total
        capability = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        devices.append(_device(pynvml.nvmlDeviceGetName(handle), memory_bytes, *capability))
    cuda = pynvml.nvmlSystemGetCudaDriverVersion()
    return {"driver": pynvml.nvmlSystemGetDriverVersion(), "cuda": _cuda_version(cuda), "devices": devices}


def cuda() -> dict[str, Any]:
    """Ask the CUDA runtime through cuda-python, as running an engine does."""
    runtime = _imported("cuda.bindings.runtime")
    facts: dict[str, Any] = {"version": metadata.version("cuda-bindings"), "cuda": "", "devices": [], "problem": ""}
    status, count = runtime.cudaGetDeviceCount()
    if int(status) != 0:
        return facts | {"problem": f"{runtime.cudaGetErrorName(status)[1].decode()}"}
    facts["cuda"] = _cuda_version(runtime.cudaDriverGetVersion()[1])
    for index in range(count):
        status, properties = runtime.cudaGetDeviceProperties(index)
        if int(status) != 0:
            return facts | {"problem": f"{runtime.cudaGetErrorName(status)[1].decode()}"}
        name = properties.name.decode().rstrip("\0")
        facts["devices"].append(_device(name, properties.totalGlobalMem, properties.major, properties.minor))
    return facts


def pycuda() -> dict[str, Any]:
    """Import pycuda's driver interface, which is linked to NVIDIA's driver library."""
    _check_installed("pycuda")
    driver = importlib.import_module("pycuda.driver")
    driver.init()
    return {"version": metadata.version("pycuda"), "devices": driver.Device.count()}


def _device(name: str, memory_bytes: int, major: int, minor: int) -> dict[str, Any]:
    return {"name": name, "memory_bytes": memory_bytes, "architecture": f"SM{major}{minor}"}


def _cuda_version(number: int) -> str:
    """13000 is 13.0."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _tiny_model() -> bytes:
    """Return an ONNX file with one convolution, which adds up the channels of an image: GPU libraries are needed."""
    onnx = importlib.import_module("onnx")
    float32, helper = onnx.TensorProto.FLOAT, onnx.helper
    ones = helper.make_tensor("ones", float32, [1, _CHANNELS, 1, 1], [1.0] * _CHANNELS)
    image = helper.make_tensor_value_info(_INPUT, float32, ["batch", _CHANNELS, _SIDE_PX, _SIDE_PX])
    sums = helper.make_tensor_value_info(_OUTPUT, float32, ["batch", 1, _SIDE_PX, _SIDE_PX])
    node = helper.make_node("Conv", [_INPUT, "ones"], [_OUTPUT])
    graph = helper.make_graph([node], "doctor", [image], [sums], initializer=[ones])
    # onnx would write its newest opset and format, which the runtimes do not read yet.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    serialised: bytes = model.SerializeToString()
    return serialised


PROBES: Mapping[str, Callable[..., dict[str, Any]]] = {
    probe.__name__: probe
    for probe in (
        *(module, torch, imagenet, onnxruntime, onnxruntime_provider, openvino),
        *(flavour, driver, nvml, cuda, pycuda),
    )
}


def main() -> None:
    """Answer the question on the original stdout; whatever a library prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(**content: Any) -> None:
        replies.write(json.dumps(content))
        replies.flush()
        # No teardown: that of a GPU library may crash or hang, and the question is answered.
        os._exit(0)

    def reply_with_failure(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        if isinstance(error, _NotInstalledError):
            reply(absent=True)
        if isinstance(error, HarnessError):
            reply(failure=error.message, remedy=error.hint)
        reply(failure=f"{kind.__name__}: {error}")

    sys.excepthook = reply_with_failure
    name, *arguments = sys.argv[1:]
    reply(facts=PROBES[name](*arguments))


if __name__ == "__main__":
    main()
