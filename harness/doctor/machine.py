"""Processor, memory and disk, read without any library that could be broken."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from harness.core.machine import machine_description
from harness.doctor.findings import Finding, size_text

# What the kernel calls the instructions on x86-64 and, where there is a counterpart, on Arm.
_FEATURES: Mapping[str, frozenset[str]] = {
    "AVX2": frozenset({"avx2"}),
    "AVX-512": frozenset({"avx512f"}),
    "VNNI": frozenset({"avx512_vnni", "avx_vnni", "asimddp"}),  # makes int8 models fast
    "AMX": frozenset({"amx_tile"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),  # makes bf16 training fast
}
# Eight checkpoints with an ONNX file and an engine each: four VGG-16 of 0.5 or 0.8 GB, four ResNet-18.
_EIGHT_RUNS_BYTES = 9 * 2**30
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"


def machine_findings() -> list[Finding]:
    """Return what is said about system, processor, memory and disk."""
    described = machine_description()
    system = Finding(
        component="system",
        status="ok",
        detail=f"{described['system']}, Python {described['python']}",
        facts={"system": described["system"], "python": described["python"]},
    )
    memory_bytes, cores = described["memory_bytes"], described["cores"]
    assert isinstance(memory_bytes, int)
    assert isinstance(cores, int)
    return [system, _processor(str(described["processor"]), cores), _memory(memory_bytes), _disk()]


def _processor(name: str, cores: int) -> Finding:
    flags = processor_flags()
    has = [feature for feature, names in _FEATURES.items() if not names.isdisjoint(flags)]
    lacks = [feature for feature in _FEATURES if feature not in has]
    quota_cores = cpu_quota_cores()
    detail = f"{name}; {cores} cores; has {', '.join(has) or 'no extra'}; lacks {', '.join(lacks) or 'nothing'}"
    if not flags:
        detail = f"{name}; {cores} cores; instructions not told by this system"
    facts = {"processor": name, "cores": cores, "quota_cores": quota_cores, "features": has}
    if quota_cores is not None and quota_cores < cores:
        return Finding(
            component="processor",
            status="limited",
            detail=f"{detail}; this container gets the time of {quota_cores:g}",
            remedy=f"harness bench --threads {max(1, int(quota_cores))}",
            facts=facts,
        )
    return Finding(component="processor", status="ok", detail=detail, facts=facts)


def _memory(total_bytes: int) -> Finding:
    limit_bytes, available_bytes = memory_limit_bytes(), _available_bytes()
    detail = size_text(total_bytes)
    if limit_bytes is not None and limit_bytes < total_bytes:
        detail += f", of which this container may use {size_text(limit_bytes)}"
    if available_bytes is not None:
        detail += f"; {size_text(available_bytes)} available"
    facts = {"total_bytes": total_bytes, "limit_bytes": limit_bytes, "available_bytes": available_bytes}
    return Finding(component="memory", status="ok", detail=detail, facts=facts)


def _disk() -> Finding:
    free_bytes = shutil.disk_usage(".").free
    enough = free_bytes >= _EIGHT_RUNS_BYTES
    return Finding(
        component="disk",
        status="ok" if enough else "limited",
        detail=f"{size_text(free_bytes)} free here" + ("" if enough else "; all eight cases exported take about 9"),
        remedy="" if enough else "Free space, or put the runs on another disk with --runs.",
        facts={"folder": str(Path.cwd()), "free_bytes": free_bytes},
    )


def processor_flags() -> frozenset[str]:
    """Return the kernel's names of the processor's instructions, none where they are not told."""
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def cpu_quota_cores(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return how many cores' time the container gets, None where it is not limited. Reads both cgroup versions."""
    quota, period = [*_words(root / "cpu.max"), "", ""][:2]
    if not quota:
        (quota,) = _words(root / "cpu" / "cpu.cfs_quota_us")[:1] or [""]
        (period,) = _words(root / "cpu" / "cpu.cfs_period_us")[:1] or [""]
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def memory_limit_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return how much memory the container may use, None where it is not limited."""
    for path in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        words = _words(path)
        # Version 1 says "no limit" as the largest number of pages.
        if words and words[0].isdigit() and int(words[0]) < 2**60:
            return int(words[0])
    return None


def nvidia_card_present() -> bool:
    """Tell whether an NVIDIA display adapter sits on the PCI bus, with or without a driver."""
    return any(
        _words(device / "vendor") == [_NVIDIA] and "".join(_words(device / "class")).startswith(_DISPLAY_CLASS)
        for device in Path("/sys/bus/pci/devices").glob("*")
    )


def _available_bytes() -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
