"""EngineOptions as a builder's configuration, in the words that each flavour has for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.engine_options import EngineOptions, HardwareCompatibility
from export.tensorrt_log import refused
from harness.core.errors import ArtifactError, ExportError
from harness.core.files import write_atomically

COMPATIBILITY_LEVELS: dict[HardwareCompatibility, str] = {
    "none": "NONE",
    "ampere-plus": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}


def configure(trt: Any, config: Any, options: EngineOptions) -> None:
    """Set what both flavours have."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    # Lets the benchmark read each layer's type back from the engine; it adds no work at run time.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def configure_rtx(trt: Any, config: Any, options: EngineOptions, log: Any) -> None:
    """Set the targets; without any, the library's own default set stands."""
    targets = options.ordered_targets
    if not targets:
        return
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, target), index):
            raise refused(f"{trt.__name__} refused the target {target}", log.lines, "Choose another target.")


def configure_tensorrt(trt: Any, config: Any, options: EngineOptions, log: Any) -> Any:
    """Set what only TensorRT has; return the timing cache, to be kept alive during the build, None without one."""
    level = COMPATIBILITY_LEVELS[options.hardware_compatibility]
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.timing_cache is None:
        return None
    timing_cache = config.create_timing_cache(_content(options.timing_cache))
    # False: a cache of another GPU or version is refused instead of trusted.
    if timing_cache is None or not config.set_timing_cache(timing_cache, False):
        raise refused(
            f"{trt.__name__} refused the timing cache {options.timing_cache}",
            log.lines,
            "It is of another GPU or version: delete it, or name another file.",
        )
    # Now, and not after a build of many minutes, is the time to learn that the place cannot be written.
    keep_timing_cache(options.timing_cache, timing_cache)
    return timing_cache


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""  # The first build makes it.
    except OSError as error:
        raise ExportError(f"The timing cache {path} cannot be read: {error}.", hint="Name another file.") from error


def keep_timing_cache(path: Path, timing_cache: Any) -> None:
    """Write the cache for the next build; raise ArtifactError where the file cannot be written."""
    content = memoryview(timing_cache.serialize())

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


def keep_timing_cache_after_build(path: Path, timing_cache: Any, log: Any) -> None:
    """Write the cache, or say in the builder's log that it was not: the engine took minutes and is whole without."""
    try:
        keep_timing_cache(path, timing_cache)
    except ArtifactError as error:
        log.lines.append(f"WARNING: {error.message}")
