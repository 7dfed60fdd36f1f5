"""Where a training runs and in which precision: resolved from this machine once, and then recorded.

bf16 means torch's autocast: weights, their updates and the loss stay float32, convolutions and matrix products read
bfloat16. It is chosen by itself only where the processor multiplies bfloat16; elsewhere it is emulated and slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from train.recipes import Precision

# What the kernel calls the instructions on x86-64 and on Arm.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def training_device() -> torch.device:
    """Return this process's GPU where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def resolved_precision(asked: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Return bf16 for `auto` where the device has instructions for it, else float32."""
    if asked != "auto":
        return asked
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_has_bf16()
    return "bf16" if has_bf16 else "fp32"


def _cpu_has_bf16() -> bool:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
            for line in stream:
                if line.startswith(("flags", "Features")):
                    return not _BF16_FLAGS.isdisjoint(line.split())
    except OSError:
        return False
    return False


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a forward pass computes in `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def exact_arithmetic(deterministic: bool) -> Iterator[None]:
    """Where asked for, let torch use deterministic algorithms only; it raises where an operation has none.

    On the CPU a training is deterministic without: this is for GPUs, where it costs speed.
    """
    if not deterministic:
        yield
        return
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
