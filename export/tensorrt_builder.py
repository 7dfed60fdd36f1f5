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
from typing import Any, Literal

from export.tensorrt_progress import BuildWatch, builder_monitor, interrupts_kept
from harness.core.errors import ArtifactError, BackendError, ExportError, UsageError
from harness.core.files import write_atomically
from harness.core.progress import Progress
from harness.core.rtx_header import HEADER_BYTES, TARGETS, rtx_header
from harness.core.tensorrt_flavour import Flavour, gpu_driver_present, imported_flavour

_Shape = tuple[int, int, int, int]
HardwareCompatibility = Literal["none", "ampere-plus", "same-compute-capability"]
_COMPATIBILITY_LEVELS: dict[HardwareCompatibility, str] = {
    "ampere-plus": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
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
class EngineOptions:
    """What else decides an engine. `workspace_bytes` bounds scratch memory, in TensorRT-RTX also that of the build.

    `targets` are GPUs of TensorRT-RTX (empty: its own default set). `timing_cache`, `hardware_compatibility` and
    `version_compatible` are TensorRT's alone; RTX ignores or refuses them.
    """

    workspace_bytes: int = 4 << 30  # Enough for any layer of the two networks.
    tf32: bool = False
    targets: tuple[str, ...] = ()
    timing_cache: Path | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False

    def recorded(self) -> dict[str, Any]:
        """Return what changes the engine; a timing cache only changes how long the build takes."""
        return {
            "workspace_bytes": self.workspace_bytes,
            "tf32": self.tf32,
            "asked_targets": list(self.targets),
            "hardware_compatibility": self.hardware_compatibility,
            "version_compatible": self.version_compatible,
        }

    def check(self, flavour: Flavour) -> None:
        """Raise UsageError where a flavour does not have what is asked for."""
        if flavour == "tensorrt" and self.targets:
            raise UsageError(
                "--target is TensorRT-RTX's: TensorRT builds for the GPU of this machine.",
                hint="Leave it out, or build with `--flavour rtx`; `--hardware-compatibility` widens TensorRT's own.",
            )
        if flavour == "rtx":
            asked = {
                "--timing-cache": self.timing_cache is not None,
                "--hardware-compatibility": self.hardware_compatibility != "none",
                "--version-compatible": self.version_compatible,
            }
            names = [name for name, given in asked.items() if given]
            if names:
                raise UsageError(
                    f"{', '.join(names)}: TensorRT-RTX has no such thing (its engines are compiled on the GPU that "
                    "runs them).",
                    hint="Leave it out, or build with `--flavour tensorrt` on a machine with a GPU.",
                )
        for target in self.targets:
            _check_target(target)


def _check_target(target: str) -> None:
    if target in {"SM90", "SM100", "SM103"}:
        raise UsageError(
            f"TensorRT-RTX does not build for {target} (H100, H200, B200): it is for RTX cards.",
            hint="Build for data-centre GPUs with `--flavour tensorrt`, on such a machine.",
        )
    if target not in TARGETS:
        raise UsageError(
            f"--target {target.lower()} is not a GPU that TensorRT-RTX builds for.",
            hint=f"Choose of {', '.join(name.lower() for name in TARGETS)}.",
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
    input_shape: _Shape,
    profile: BatchProfile,
    options: EngineOptions,
    progress: Progress,
) -> BuiltEngine:
    """Build an engine for inputs of `input_shape`, whose first number stands for the batch.

    External data beside the ONNX file is found.
    Raises ExportError with the parser's or builder's words. Ctrl-C, or an exception of `progress`, cancels
    the build and is raised as it is.
    """
    if not onnx_path.is_file():
        raise ExportError(f"{onnx_path} does not exist.", hint="Export it first: `harness export`.")
    try:
        trt = imported_flavour(flavour)
    except BackendError as error:
        raise ExportError(error.message, hint=error.hint) from error
    shapes = [(size, *input_shape[1:]) for size in (profile.minimum, profile.optimum, profile.maximum)]
    started_s = time.perf_counter()
    with ExitStack() as tasks:
        watch = BuildWatch(progress, tasks)
        # Logger and monitor must outlive their users: builder, network and parser die with the inner call.
        logger, monitor = _logger(trt), builder_monitor(trt, watch)
        logger.lines.clear()
        with interrupts_kept(watch):
            try:
                plan, tf32 = _plan_from_onnx(trt, onnx_path, input_name, shapes, options, logger, monitor)
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
    options: EngineOptions,
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
    cache = _configure(trt, config, options, logger)
    # Lets the benchmark read each layer's type back from the engine; it adds no work at run time.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    optimisation_profile = builder.create_optimization_profile()
    optimisation_profile.set_shape(input_name, *shapes)
    if config.add_optimization_profile(optimisation_profile) < 0:
        raise _refused(f"{trt.__name__} refused the batch sizes", logger.lines, "Give other batch sizes.")
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is not None and cache is not None and options.timing_cache is not None:
        _keep_timing_cache(options.timing_cache, config)
    return plan, config.get_flag(trt.BuilderFlag.TF32)


def _configure(trt: Any, config: Any, options: EngineOptions, logger: Any) -> Any:
    """Set every option, and return the timing cache, which must live as long as the build; None without one."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.targets:
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, target), index):
                raise _refused(f"{trt.__name__} refused the target {target}", logger.lines, "Choose another target.")
    if options.hardware_compatibility != "none":
        level = _COMPATIBILITY_LEVELS[options.hardware_compatibility]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.timing_cache is None:
        return None
    content = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
    cache = config.create_timing_cache(content)
    if not config.set_timing_cache(cache, False):
        raise _refused(
            f"{trt.__name__} refused the timing cache {options.timing_cache}",
            logger.lines,
            "It is of another GPU or version: delete it, or name another file.",
        )
    return cache


def _keep_timing_cache(path: Path, config: Any) -> None:
    content = memoryview(config.get_timing_cache().serialize())
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


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
