"""What a GPU tells of itself through NVML: power, clock, temperature, and why it is not faster.

Not run on a GPU yet: tested with a stand-in for the library.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

# Bits of nvmlDeviceGetCurrentClocksEventReasons, in nvml.h's order.
_REASONS = (
    "idle",
    "application clocks",
    "software power cap",
    "hardware slowdown",
    "sync boost",
    "software thermal slowdown",
    "hardware thermal slowdown",
    "hardware power brake",
    "display clocks",
    "board limit",
    "reliability",
)
# How a GPU is when nothing slows it down: it had nothing to do, or runs at the clock that somebody chose.
_HARMLESS = frozenset({"idle", "application clocks"})
_DRIVER = Path("/proc/driver/nvidia/version")
_INSTALL = "nvidia-ml-py is not installed: `make setup GPU=1`"


class GpuSample(BaseModel):
    """One moment, `at_s` after the start; what the GPU does not tell is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at_s: float
    power_w: float | None
    sm_clock_mhz: int | None
    temperature_c: int | None
    reasons: list[str] | None


def harmful(reasons: Iterable[str]) -> list[str]:
    """Return the reasons that made the GPU slower than it was set to be."""
    return [each for each in reasons if each not in _HARMLESS]


def reasons_from_bits(bits: int) -> list[str]:
    """Return in words what a bit mask says; bits of a newer driver by their number."""
    return [
        _REASONS[bit] if bit < len(_REASONS) else f"reason {bit}" for bit in range(bits.bit_length()) if bits >> bit & 1
    ]


@dataclass(kw_only=True)
class Gpu:
    """One GPU of an initialised NVML."""

    pynvml: Any
    handle: Any
    name: str
    uuid: str

    def sample(self, at_s: float) -> GpuSample:
        nvml = self.pynvml
        power_mw = self._told(nvml.nvmlDeviceGetPowerUsage)
        bits = self._told(nvml.nvmlDeviceGetCurrentClocksEventReasons)
        return GpuSample(
            at_s=at_s,
            power_w=None if power_mw is None else power_mw / 1e3,
            sm_clock_mhz=self._told(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            temperature_c=self._told(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            reasons=None if bits is None else reasons_from_bits(bits),
        )

    def energy_j(self) -> float | None:
        """Return the GPU's own counter, which knows what happens between samples."""
        energy_mj = self._told(self.pynvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if energy_mj is None else energy_mj / 1e3

    def close(self) -> None:
        self.pynvml.nvmlShutdown()

    def _told(self, ask: Callable[..., int], *arguments: Any) -> int | None:
        """Return an answer, None where this GPU or its driver has none: each tells some things and not others."""
        try:
            return int(ask(self.handle, *arguments))
        except self.pynvml.NVMLError:
            return None


def opened_gpu(index: int, notes: list[str]) -> Gpu | None:
    """Return a GPU by its number in NVML's order, or None and a note that says why."""
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        notes.append(f"GPU: {_INSTALL}" if _DRIVER.is_file() else "GPU: no NVIDIA driver")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        notes.append(f"GPU: NVML does not start: {error}")
        return None
    try:
        count = pynvml.nvmlDeviceGetCount()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        gpu = Gpu(
            pynvml=pynvml,
            handle=handle,
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        )
    except pynvml.NVMLError as error:
        notes.append(f"GPU: NVML tells nothing of GPU {index}: {error}")
        pynvml.nvmlShutdown()
        return None
    if count > 1:  # CUDA may count them in another order.
        notes.append(f"GPU: number {index} of {count} in NVML's order")
    first = gpu.sample(0.0)
    words = {"power_w": "power", "sm_clock_mhz": "clock", "temperature_c": "temperature", "reasons": "throttle reasons"}
    silent = [word for field, word in words.items() if getattr(first, field) is None]
    if silent:
        notes.append(f"GPU: {gpu.name} does not tell {', '.join(silent)}")
    return gpu


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # Older bindings return bytes.
