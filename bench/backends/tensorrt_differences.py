"""What loading an engine asks of TensorRT where the two flavours differ."""

from __future__ import annotations

from typing import Any

from harness.core.tensorrt_flavour import Flavour

RUNTIMES: dict[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}


def context_rtx(trt: Any, engine: Any, *, graph: bool) -> Any:
    """Return an execution context that compiles its kernels at once, and records a graph by itself or none."""
    runtime_config = engine.create_runtime_config()
    runtime_config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    runtime_config.cuda_graph_strategy = (
        trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE if graph else trt.CudaGraphStrategy.DISABLED
    )
    return engine.create_execution_context(runtime_config)


def graph_departures_rtx(context: Any, stream_handle: int) -> list[str]:
    """Say where TensorRT-RTX will record no graph, though it was told to: it would run without one then."""
    if context.is_stream_capturable(stream_handle):
        return []
    return ["a CUDA graph was asked for, and TensorRT-RTX cannot record one of this engine"]


def invalidity_rtx(trt: Any, runtime: Any, plan: Any) -> list[str]:
    """Return why TensorRT-RTX holds a plan for not valid on this machine; an empty list where it may be."""
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return []
    reasons = trt.EngineInvalidityDiagnostics.__members__.items()
    return [name for name, bit in reasons if int(bit) & int(diagnostics)] or ["no reason told"]


def allow_host_code_tensorrt(runtime: Any) -> None:
    """Let an engine bring the runtime of its own version along, as code for the host."""
    runtime.engine_host_code_allowed = True


def kept_log(trt: Any, log: list[str]) -> Any:
    """Return a logger that adds warnings and errors to `log`."""

    class KeptLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # The binding insists on the base class being called by name.

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                log.append(f"{severity.name}: {message}")

    return KeptLog()
