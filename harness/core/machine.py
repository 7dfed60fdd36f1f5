"""What machine this is, and how much of it somebody else is using.

A latency means nothing without the processor it was taken on. Foreign load is read from /proc/stat: on virtual
machines the steal counter stayed at zero while neighbours in the same machine doubled our latencies, but
"busy time of the machine minus our own" saw them.
"""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `harness doctor` describes machines on which pydantic is broken.
    from pydantic import JsonValue

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)
# One folder for every GPU that the driver sees.
_GPUS = Path("/proc/driver/nvidia/gpus")
# Virtual machines of several generations, one twice as fast as the other, are all named "AMD EPYC".
_GENERATION = ("cpu family", "model", "stepping")


def core_count() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_description() -> dict[str, JsonValue]:
    """Return processor, memory, system, package versions and, where there are any, the GPUs, for the record."""
    described: dict[str, JsonValue] = {
        "processor": _processor_name(),
        "cores": core_count(),
        "memory_bytes": _memory_bytes(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }
    gpus = _gpu_names()
    return described | {"gpus": gpus} if gpus else described


def _gpu_names() -> list[JsonValue]:
    """Return the model of every NVIDIA GPU, as the driver names it; none where there is no driver."""
    files = sorted(_GPUS.glob("*/information"))
    first_lines = [path.read_text(encoding="utf-8").split("\n", 1)[0] for path in files]
    return [line.partition(":")[2].strip() for line in first_lines]  # "Model:  NVIDIA H100".


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor_name() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        first = cpu_info.read_text(encoding="utf-8").split("\n\n", 1)[0]
        told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
        if "model name" in told:
            numbers = [f"{key.removeprefix('cpu ')} {told[key]}" for key in _GENERATION if key in told]
            return told["model name"] + (f" ({', '.join(numbers)})" if numbers else "")
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine_busy_s() -> float | None:
    """Return the seconds of processor time that all processes have used since boot; None where it is not told."""
    try:
        with open("/proc/stat", encoding="utf-8") as stream:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stream.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class ForeignLoad:
    """Measure the cores that others use while a block runs in a worker process.

    `own_cpu_s` of the worker is given at the end; this process adds its own.
    """

    def __init__(self) -> None:
        self._busy_s = machine_busy_s()
        self._own_s = time.process_time()
        self._started_s = time.perf_counter()

    def cores(self, *, worker_cpu_s: float) -> float | None:
        """Return the average number of cores used by others since construction; None where it is not told."""
        busy_s = machine_busy_s()
        if self._busy_s is None or busy_s is None:
            return None
        elapsed_s = time.perf_counter() - self._started_s
        own_s = time.process_time() - self._own_s + worker_cpu_s
        return max(0.0, (busy_s - self._busy_s - own_s) / elapsed_s)
