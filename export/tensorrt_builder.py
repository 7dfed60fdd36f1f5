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
from pathlib import Path
from typing import Any

from export.engine_options import BatchProfile, EngineOptions
from export.tensorrt_config import configure, configure_rtx, configure_tensorrt, keep_timing_cache_after_build
from export.tensorrt_log import kept_log, parser_words, refused, without_noise
from export.tensorrt_progress import BuildWatch, builder_monitor, interrupts_kept
from harness.core.errors import ArtifactError, BackendError, ExportError
from harness.core.progress import Progress
from harness.core.rtx_header import HEADER_BYTES, rtx_header
from harness.core.tensorrt_flavour import Flavour, imported_flavour

_Shape = tuple[int, int, int, int]
_MODEL_HINT = (
    "Export the model again with `harness export`. TensorRT networks are strongly typed: both inputs of an "
    "operator need one type, and every operator must be TensorRT's own. Of quantised models they take those of "
    "`--precision int8`: int8 around zero, biases in float."
)
# What the parser says, as a warning only, before it reads uint8 activations as int8, so that half their range is cut.
_READ_AS_INT8 = "UINT8 zero_point"
# Turing has no kernels for fp32 matrix products in TensorRT-RTX, and says so.
_TURING_COMPLAINT = "Turing (SM75)"


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


def check_model_exists(onnx_path: Path) -> None:
    """Raise ExportError where it does not."""
    if not onnx_path.is_file():
        raise ExportError(f"{onnx_path} does not exist.", hint="Export it first: `harness export`.")


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
    Raises UsageError where the flavour lacks an option, else ExportError with the parser's or builder's words.
    Ctrl-C, or an exception of `progress`, cancels the build and is raised as it is.
    """
    options.check(flavour)
    check_model_exists(onnx_path)
    try:
        trt = imported_flavour(flavour)
    except BackendError as error:
        raise ExportError(error.message, hint=error.hint) from error
    shapes = [(size, *input_shape[1:]) for size in (profile.minimum, profile.optimum, profile.maximum)]
    log = kept_log(trt)
    log.lines.clear()
    started_s = time.perf_counter()
    with ExitStack() as tasks:
        watch = BuildWatch(progress, tasks)
        # The monitor must outlive its users: builder, network and parser die with the inner call.
        monitor = builder_monitor(trt, watch)
        with interrupts_kept(watch):
            try:
                plan, tf32 = _plan_from_onnx(trt, flavour, onnx_path, input_name, shapes, options, log, monitor)
            except (ArtifactError, ExportError) as error:
                # Or the builder, and all weights with it, would live as long as the error does.
                traceback.clear_frames(error.__traceback__)
                raise
        if watch.stored is not None:
            raise watch.stored
    if plan is None:
        failure = f"{trt.__name__} did not build an engine from {onnx_path.name}"
        raise refused(failure, log.lines, _build_hint(flavour, log.lines))
    return BuiltEngine(
        plan=plan,
        flavour=flavour,
        version=trt.__version__,
        targets=_targets(plan, flavour, options),
        tf32=tf32,
        build_s=time.perf_counter() - started_s,
        log=without_noise(log.lines),
    )


def _plan_from_onnx(
    trt: Any,
    flavour: Flavour,
    onnx_path: Path,
    input_name: str,
    shapes: list[_Shape],
    options: EngineOptions,
    log: Any,
    monitor: Any,
) -> tuple[Any, bool]:
    """Return the plan, or None where the build failed or was cancelled, and whether TF32 was allowed."""
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # How a null pointer from the native factory arrives.
        raise refused(f"{trt.__name__} could not start", log.lines, "Check the GPU with `nvidia-smi`.") from error
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    _read(trt, parser, network, onnx_path, log)
    _check_input(network, input_name, shapes)
    config = builder.create_builder_config()
    configure(trt, config, options)
    timing_cache = None
    if flavour == "rtx":
        configure_rtx(trt, config, options, log)
    else:
        timing_cache = configure_tensorrt(trt, config, options, log)
    optimisation_profile = builder.create_optimization_profile()
    optimisation_profile.set_shape(input_name, *shapes)
    if config.add_optimization_profile(optimisation_profile) < 0:
        raise refused(f"{trt.__name__} refused the batch sizes", log.lines, "Give other batch sizes.")
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is not None and timing_cache is not None and options.timing_cache is not None:
        keep_timing_cache_after_build(options.timing_cache, timing_cache, log)
    return plan, config.get_flag(trt.BuilderFlag.TF32)


def _read(trt: Any, parser: Any, network: Any, onnx_path: Path, log: Any) -> None:
    """Fill the network; its weights stay with the parser, which must live as long."""
    # Not parse(bytes): only the path tells the parser where external data lies.
    if not parser.parse_from_file(str(onnx_path)):
        words = parser_words(parser, log.lines)
        raise refused(f"{trt.__name__} cannot read {onnx_path.name}", words, _MODEL_HINT)
    if network.num_outputs == 0:  # Bytes that are no ONNX at all can parse without an error.
        raise refused(f"{onnx_path.name} has no outputs: it may not be ONNX at all", log.lines, _MODEL_HINT)
    if any(_READ_AS_INT8 in line for line in log.lines):
        raise refused(f"{trt.__name__} would cut the uint8 activations of {onnx_path.name}", log.lines, _MODEL_HINT)


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


def _targets(plan: Any, flavour: Flavour, options: EngineOptions) -> list[str]:
    """Return the targets that the header tells; raise ExportError where they are not those asked for."""
    if flavour == "tensorrt":
        return ["this GPU"]
    view = memoryview(plan)
    try:
        header = rtx_header(bytes(view[:HEADER_BYTES]), file_size_bytes=len(view))
    except ArtifactError as error:
        raise ExportError(
            f"The engine just built is not understood: {error.message}",
            hint="Another version, another header: use TensorRT-RTX 1.7 or adapt harness/core/rtx_header.py.",
        ) from error
    asked = options.ordered_targets
    if asked and header.targets != asked:
        raise ExportError(
            f"The engine was asked for {', '.join(asked)}, and by its header is for "
            f"{', '.join(header.targets) or 'nothing known'}.",
            hint="Leave `--target` out, or use TensorRT-RTX 1.7.",
        )
    return list(header.targets)


def _build_hint(flavour: Flavour, lines: list[str]) -> str:
    if any(_TURING_COMPLAINT in line for line in lines):
        return "Build fp16 for Turing (`--precision fp16`), or leave sm75 out of `--target`."
    if flavour == "rtx":
        return (
            "If the lines speak of memory, give the builder more with a larger `--workspace`; otherwise: " + _MODEL_HINT
        )
    return "If the lines speak of memory, free the GPU (`nvidia-smi`) or lower `--workspace`; otherwise: " + _MODEL_HINT
