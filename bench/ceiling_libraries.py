"""The bare operations in the libraries that compute them here: OpenVINO or torch on the CPU, torch on a GPU.

The part on a GPU was not run yet: no GPU was at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from bench.ceiling import MeasureCeiling, Operation
from bench.ceiling_kernels import CONVOLUTIONS, Kernel, input_shape, operation_model, random_weights, weight_shape
from bench.ceiling_kernels import work_flop as flop_of
from harness.core.errors import BackendError

_OPERATIONS: tuple[Operation, ...] = get_args(Operation)
# What is asked of OpenVINO, and in which of its types the operation must then really run.
_OPENVINO_FORMS = {"fp32": ("f32", {"f32"}), "bf16": ("bf16", {"bf16"}), "int8": ("f32", {"i8", "u8"})}
_COMPUTING = frozenset({"Convolution", "FullyConnected", "MatMul"})
_TORCH_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_NO_INT8 = "int8: torch has no public convolution in it"
_UNTOLD = "torch does not tell in which type its kernels multiply; where the processor lacks bf16 it is emulated"


@dataclass(kw_only=True)
class Library:
    """A library with its kernels, and in words what it does not offer."""

    name: str
    version: str
    device_name: str
    kernels: list[Kernel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def openvino_library(request: MeasureCeiling) -> Library:
    """Compile every operation at every precision; raise ImportError without OpenVINO."""
    import openvino

    core = openvino.Core()
    name = str(core.get_property("CPU", "FULL_DEVICE_NAME"))
    library = Library(name="OpenVINO", version=openvino.get_version(), device_name=name)
    for operation in _OPERATIONS:
        for precision, (hint, expected) in _OPENVINO_FORMS.items():
            model = operation_model(request, operation, quantised=precision == "int8").SerializeToString()
            settings = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": hint,
                "INFERENCE_NUM_THREADS": request.threads,
            }
            try:
                compiled = core.compile_model(core.read_model(model), "CPU", settings)
            except RuntimeError as error:
                library.notes.append(f"{operation} in {precision}: {' '.join(str(error).split())[:200]}")
                continue
            found = _types(compiled)
            threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
            if not found or not found <= expected or threads != request.threads:
                ran = f"{', '.join(sorted(found)) or 'nothing known'} on {threads} threads"
                library.notes.append(f"{operation} in {precision}: OpenVINO computes in {ran}")
                continue
            call = _openvino_call(compiled)
            flop = flop_of(request, operation)
            library.kernels.append(Kernel(operation=operation, precision=precision, flop=flop, call=call))
    return library


def _types(compiled: Any) -> set[str]:
    """Return the types in which a compiled model really multiplies."""
    information = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    return {
        str(each["runtimePrecision"].astype(str))
        for each in information
        if str(each["layerType"].astype(str)) in _COMPUTING
    }


def _openvino_call(compiled: Any) -> Callable[[], None]:
    request = compiled.create_infer_request()
    images = request.get_input_tensor(0).data
    images[:] = np.random.default_rng(1).normal(size=images.shape)

    def call() -> None:
        request.start_async()
        request.wait()

    return call


def torch_library(request: MeasureCeiling) -> Library:
    """Prepare every operation in torch, on the CPU or the first GPU; raise BackendError where there is no such GPU."""
    import torch

    on_gpu = request.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise BackendError("torch sees no GPU.", hint="Check the GPU with `nvidia-smi`.")
    torch.set_num_threads(request.threads)
    if on_gpu:  # TF32 keeps 10 bits of 23: another precision under the name of float32.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
    library = Library(
        name="torch",
        version=torch.__version__,
        device_name=torch.cuda.get_device_name(0) if on_gpu else "CPU",
        notes=[_NO_INT8] if on_gpu else [_NO_INT8, _UNTOLD],
    )
    for operation in _OPERATIONS:
        for precision in ("fp32", "fp16", "bf16") if on_gpu else ("fp32", "bf16"):
            call = _torch_call(torch, request, operation, _TORCH_NAMES[precision])
            flop = flop_of(request, operation)
            library.kernels.append(Kernel(operation=operation, precision=precision, flop=flop, call=call))
    return library


def _torch_call(torch: Any, request: MeasureCeiling, operation: Operation, dtype: str) -> Callable[[], None]:
    placed = {"device": request.device, "dtype": getattr(torch, dtype)}
    values = torch.randn(input_shape(request, operation), **placed)
    weights = torch.from_numpy(random_weights(weight_shape(request, operation))).to(**placed)
    if operation == "convolution":  # The layout of the fast kernels, on processors and GPUs.
        values, weights = (each.contiguous(memory_format=torch.channels_last) for each in (values, weights))

    def call() -> None:
        with torch.inference_mode():
            result = values
            if operation == "convolution":
                for _ in range(CONVOLUTIONS):
                    result = torch.nn.functional.conv2d(result, weights)
            else:
                torch.matmul(values, weights)
        if request.device == "cuda":
            torch.cuda.synchronize()

    return call


def torch_copy(request: MeasureCeiling) -> Callable[[], None]:
    """Return a copy within the GPU's own memory."""
    import torch

    source = torch.ones(request.copied_bytes, dtype=torch.uint8, device=request.device)
    target = torch.empty_like(source)

    def call() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    return call
