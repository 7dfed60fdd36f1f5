"""ONNX -> engine, by one builder for TensorRT (11 or newer) and TensorRT-RTX.

Networks are strongly typed in both, so the precision is that of the ONNX file and no flag sets it here. What
the builder would change by itself is switched off and read back: TF32, which is on by default and leaves an
"fp32" engine with 10 bits of mantissa on Ampere and newer.

The native side neither raises nor lets an exception of a callback through: a failed build is None, a failed
parse False, a wrong profile a line in the log. Here each becomes an ExportError that carries those lines.
"""

from __future__ import annotations

import time
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from export.tensorrt_progress import BuildWatch, builder_monitor, interrupts_kept
from harness.core.errors import ArtifactError, BackendError, ExportError, UsageError
from harness.core.progress import Progress
from harness.core.rtx_header import HEADER_BYTES, rtx_header
from harness.core.tensorrt_flavour import Flavour, gpu_driver_present, imported_flavour

_CHANNELS = 3
_Shape = tuple[int, int, int, int]
# On a machine without a driver, every message drags this complaint along; an RTX build needs no driver.
_NO_DRIVER_NOISE = "cudaError 35"
_MODEL_HINT = (
    "Export the model again with `harness export`. TensorRT networks are strongly typed: both inputs of an "
    "operator need one type, and every operator must be TensorRT's own."
)


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """The batch sizes one engine serves, and the one it is tuned for."""

    minimum: int = 1
    optimum: int = 8
    maximum: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(
                f"The batch sizes of an engine must rise from 1: minimum {self.minimum}, "
                f"optimum {self.optimum}, maximum {self.maximum}.",
                hint="Give them as 1 <= minimum <= optimum <= maximum, for instance 1, 8, 32.",
            )


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A built plan and what to record about it.

    `plan` is TensorRT's own buffer (770 MB for VGG-16 with large heads), not a copy: write `memoryview(plan)`
    to the file. `targets` are compute capabilities, `build_s` includes parsing, `log` has warnings, errors.
    """

    plan: Any
    flavour: Flavour
    version: str
    targets: list[str]
    tf32: bool
    build_s: float
    log: list[str]


def engine_from_onnx(
    onnx_path: Path,
    *,
    flavour: Flavour,
    input_name: str,
    image_px: int,
    profile: BatchProfile,
    workspace_bytes: int,
    progress: Progress,
) -> BuiltEngine:
    """Build an engine for images (batch, 3, image_px, image_px); external data beside the ONNX file is found.

    `workspace_bytes` bounds scratch memory on the GPU and, in TensorRT-RTX, the memory of the build itself.
    Raises ExportError with the parser's or builder's words. Ctrl-C, or an exception of `progress`, cancels
    the build and is raised as it is.
    """
    if not onnx_path.is_file():
        raise ExportError(f"{onnx_path} does not exist.", hint="Export it first: `harness export`.")
    try:
        trt = imported_flavour(flavour)
    except BackendError as error:
        raise ExportError(error.message, hint=error.hint) from error
    shapes = [(size, _CHANNELS, image_px, image_px) for size in (profile.minimum, profile.optimum, profile.maximum)]
    started_s = time.perf_counter()
    with ExitStack() as tasks:
        watch = BuildWatch(progress, tasks)
        # Logger and monitor must outlive their users: builder, network and parser die with the inner call.
        logger, monitor = _logger(trt), builder_monitor(trt, watch)
        logger.lines.clear()
        with interrupts_kept(watch):
            try:
                plan, tf32 = _plan_from_onnx(trt, onnx_path, input_name, shapes, workspace_bytes, logger, monitor)
            except ExportError as error:
                # Or the builder, and all weights with it, would live as long as the error does.
                traceback.clear_frames(error.__traceback__)
                raise
        if watch.stored is not None:
            raise watch.stored
    if plan is None:
        failure = f"{trt.__name__} did not build an engine from {onnx_path.name}"
        raise _refused(failure, logger.lines, _build_hint(flavour))
    return BuiltEngine(
        plan=plan,
        flavour=flavour,
        version=trt.__version__,
        targets=_targets(plan, flavour),
        tf32=tf32,
        build_s=time.perf_counter() - started_s,
        log=_without_noise(logger.lines),
    )


def _plan_from_onnx(
    trt: Any,
    onnx_path: Path,
    input_name: str,
    shapes: list[_Shape],
    workspace_bytes: int,
    logger: Any,
    monitor: Any,
) -> tuple[Any, bool]:
    """Return the plan, or None where the build failed or was cancelled, and whether TF32 was allowed."""
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # How a null pointer from the native factory arrives.
        raise _refused(f"{trt.__name__} could not start", logger.lines, "Check the GPU with `nvidia-smi`.") from error
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    # Not parse(bytes): only the path tells the parser where external data lies.
    if not parser.parse_from_file(str(onnx_path)):
        errors = [_words(parser.get_error(index)) for index in range(parser.num_errors)]
        raise _refused(f"{trt.__name__} cannot read {onnx_path.name}", errors or logger.lines, _MODEL_HINT)
    if network.num_outputs == 0:  # Bytes that are no ONNX at all can parse without an error.
        raise _refused(f"{onnx_path.name} has no outputs: it may not be ONNX at all", logger.lines, _MODEL_HINT)
    _check_input(network, input_name, shapes)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.clear_flag(trt.BuilderFlag.TF32)
    # Lets the benchmark read each layer's type back from the engine; it adds no work at run time.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    optimisation_profile = builder.create_optimization_profile()
    optimisation_profile.set_shape(input_name, *shapes)
    if config.add_optimization_profile(optimisation_profile) < 0:
        raise _refused(f"{trt.__name__} refused the batch sizes", logger.lines, "Give other batch sizes.")
    config.progress_monitor = monitor
    return builder.build_serialized_network(network, config), config.get_flag(trt.BuilderFlag.TF32)


def _check_input(network: Any, input_name: str, shapes: list[_Shape]) -> None:
    # The builder finds these too, minutes later and in its own words.
    shape_of = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape_of[tensor.name] = tuple(tensor.shape)
    if set(shape_of) != {input_name}:
        raise ExportError(
            f"The model's inputs are {', '.join(sorted(shape_of)) or 'none'}; expected only {input_name}.",
            hint="Export the model again with `harness export`, which names the input.",
        )
    declared = shape_of[input_name]
    for shape in shapes:
        if len(declared) != len(shape) or any(
            have not in (-1, want) for have, want in zip(declared, shape, strict=True)
        ):
            raise ExportError(
                f"The model's input {input_name} has the shape {declared}, where -1 is free; the engine is "
                f"to take {shape}.",
                hint="Build with the image size of the model, and export the model with a free batch axis.",
            )


def _targets(plan: Any, flavour: Flavour) -> list[str]:
    if flavour == "tensorrt":
        return ["this GPU"]
    view = memoryview(plan)
    try:
        return list(rtx_header(bytes(view[:HEADER_BYTES]), file_size_bytes=len(view)).targets)
    except ArtifactError as error:
        raise ExportError(
            f"The engine just built is not understood: {error.message}",
            hint="Another version, another header: use TensorRT-RTX 1.7 or adapt harness/core/rtx_header.py.",
        ) from error


@cache  # TensorRT keeps the first logger of a process while anything uses it, and ignores the later ones.
def _logger(trt: Any) -> Any:
    class KeptLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            self.lines: list[str] = []
            trt.ILogger.__init__(self)  # The binding insists on the base class being called by name.

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                self.lines.append(f"{severity.name}: {message}")

    return KeptLog()


def _words(parser_error: Any) -> str:
    operator = parser_error.node_operator()
    place = f" at node {parser_error.node_name()!r} (operator {operator})" if operator else ""
    return f"{parser_error.code().name}{place}: {parser_error.desc()}"


def _without_noise(lines: list[str]) -> list[str]:
    if gpu_driver_present():
        return list(lines)
    kept = ("\n".join(part for part in line.splitlines() if _NO_DRIVER_NOISE not in part) for line in lines)
    return [line for line in kept if line.strip()]


def _refused(message: str, lines: list[str], hint: str) -> ExportError:
    # The noise is all there is where the missing driver is the very cause.
    told = _without_noise(lines) or lines
    return ExportError("\n  ".join([message + ("." if not told else ":"), *told]), hint=hint)


def _build_hint(flavour: Flavour) -> str:
    if flavour == "rtx":
        return "If the lines speak of memory, give the builder more with a larger workspace; otherwise: " + _MODEL_HINT
    return "If the lines speak of memory, free the GPU (`nvidia-smi`) or lower the workspace; otherwise: " + _MODEL_HINT
