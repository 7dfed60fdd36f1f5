"""What decides an engine beside its ONNX file, and what each flavour of TensorRT has of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import UsageError
from harness.core.rtx_header import TARGETS
from harness.core.tensorrt_flavour import Flavour

HardwareCompatibility = Literal["none", "ampere-plus", "same-compute-capability"]
# One activation of these networks at 224 pixels takes 3 MB an image: no GPU holds more. The builder does not say so.
LARGEST_BATCH = 1 << 16
# Hopper, Blackwell of the data centre, Thor: between Ada (SM89) and Blackwell of the desk (SM120).
_NOT_RTX = range(90, 120)
_TARGET = re.compile(r"SM(\d{2,3})[AF]?")


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
        if self.maximum > LARGEST_BATCH:
            raise UsageError(
                f"No GPU has the memory for batches of {self.maximum}.",
                hint=f"Give a maximum of at most {LARGEST_BATCH}; 32 is the default.",
            )


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What else decides an engine. `workspace_bytes` bounds scratch memory, in TensorRT-RTX also that of the build.

    `targets` are GPUs of TensorRT-RTX (empty: its own default set). `timing_cache`, `hardware_compatibility` and
    `version_compatible` are TensorRT's alone.
    """

    workspace_bytes: int = 4 << 30  # Enough for any layer of the two networks.
    tf32: bool = False
    targets: tuple[str, ...] = ()
    timing_cache: Path | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False

    @property
    def ordered_targets(self) -> tuple[str, ...]:
        """The targets, each once, in the order of TARGETS: one named twice would give other bytes."""
        return tuple(name for name in TARGETS if name in self.targets)

    def recorded(self) -> dict[str, Any]:
        """Return what an engine must agree in to be called up to date.

        Not the timing cache: it saves time, and decides only between kernels that are equally right.
        """
        return {
            "workspace_bytes": self.workspace_bytes,
            "tf32": self.tf32,
            "asked_targets": list(self.ordered_targets),
            "hardware_compatibility": self.hardware_compatibility,
            "version_compatible": self.version_compatible,
        }

    def check(self, flavour: Flavour) -> None:
        """Raise UsageError where a flavour does not have what is asked for.

        The libraries do not: TensorRT-RTX ignores a timing cache without a word and hardware compatibility with a
        warning, and fails minutes later for version compatibility.
        """
        for target in self.targets:
            _check_target(target)
        if flavour == "tensorrt" and self.targets:
            raise UsageError(
                "--target is TensorRT-RTX's: TensorRT builds for the GPU of this machine.",
                hint="Leave it out, or build with `--flavour rtx`; `--hardware-compatibility` widens TensorRT's own.",
            )
        asked = {
            "--timing-cache": self.timing_cache is not None,
            "--hardware-compatibility": self.hardware_compatibility != "none",
            "--version-compatible": self.version_compatible,
        }
        names = [name for name, given in asked.items() if given]
        if flavour == "rtx" and names:
            raise UsageError(
                f"{', '.join(names)}: TensorRT-RTX has no such thing (its engines are compiled on the GPU that "
                "runs them).",
                hint="Leave it out, or build with `--flavour tensorrt` on a machine with a GPU.",
            )


def _check_target(target: str) -> None:
    if target in TARGETS:
        return
    match = _TARGET.fullmatch(target)
    if match and int(match[1]) in _NOT_RTX:
        raise UsageError(
            f"TensorRT-RTX does not build for {target}: SM90 (H100, H200), SM100 and SM103 (B200, B300) and SM110 are "
            "no RTX GPUs.",
            hint="Build with `--flavour tensorrt` and without `--target`, on a machine with such a GPU.",
        )
    raise UsageError(
        f"--target {target.lower()} is not a GPU that TensorRT-RTX builds for.",
        hint=f"Choose of {', '.join(name.lower() for name in TARGETS)}.",
    )
