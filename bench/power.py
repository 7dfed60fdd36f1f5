"""Power, clocks and throttling while something is measured: what the machine tells of them, and what it does not.

A GPU tells through NVML, ten times a second; a processor through RAPL's energy counters and cpufreq, where the kernel
shows them. Virtual machines show neither. Where nothing is told no thread is started, and the record says why.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from bench.power_gpu import Gpu, GpuSample, harmful, opened_gpu
from bench.power_processor import EnergyCounter, clocks_hz, cpufreq_files, energy_counters

PERIOD_S = 0.1
# Reading a core's clock may wake the core, so it is read less often.
_CLOCK_EVERY = 10
_POWERCAP = Path("/sys/class/powercap")
_PROCESSORS = Path("/sys/devices/system/cpu")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GpuPower(_Record):
    """What a GPU told, sample by sample. `energy_j` is of its own counter, which not every GPU has."""

    name: str
    uuid: str
    samples: list[GpuSample]
    energy_j: float | None

    @property
    def mean_power_w(self) -> float | None:
        told = [each.power_w for each in self.samples if each.power_w is not None]
        return sum(told) / len(told) if told else None

    @property
    def throttled_samples(self) -> dict[str, int]:
        """How many samples gave each reason that makes a time worthless: heat, power, and hardware's own."""
        counts: dict[str, int] = {}
        for reason in (reason for each in self.samples for reason in harmful(each.reasons or ())):
            counts[reason] = counts.get(reason, 0) + 1
        return counts


class Power(_Record):
    """All that was told during `duration_s`. What is None was not; `notes` say what and why.

    `processor_energy_j` is by the counter's name ("package-0", "dram"). It is the whole package's: other processes
    and other virtual machines are in it. `processor_clock_hz` is the mean over this process's cores, a value a second.
    """

    duration_s: float
    gpu: GpuPower | None = None
    processor_energy_j: dict[str, float] | None = None
    processor_clock_hz: list[float] | None = None
    notes: list[str]

    @property
    def tells_anything(self) -> bool:
        return not (self.gpu is None and self.processor_energy_j is None and self.processor_clock_hz is None)

    @property
    def energy_j(self) -> float | None:
        """Joules of GPU, processor packages and their DRAM together, None where none is told.

        The parts of a package ("core", "uncore") are in it already; DRAM is not.
        """
        counted = (self.processor_energy_j or {}).items()
        told = [energy_j for name, energy_j in counted if name.startswith("package") or name == "dram"]
        if self.gpu is not None:
            own_j, mean_w = self.gpu.energy_j, self.gpu.mean_power_w
            if own_j is not None:
                told.append(own_j)
            elif mean_w is not None:
                told.append(mean_w * self.duration_s)
        return sum(told) if told else None


class PowerSampler:
    """Sample from `with` to the end of its block, then `record()`; costs nothing where nothing is told."""

    def __init__(
        self, *, gpu_index: int | None = None, powercap: Path = _POWERCAP, processors: Path = _PROCESSORS
    ) -> None:
        """`gpu_index` is in NVML's order, and None for a measurement that uses no GPU."""
        self._notes: list[str] = []
        self._gpu: Gpu | None = None
        if gpu_index is not None:
            self._gpu = opened_gpu(gpu_index, self._notes)
        self._counters: list[EnergyCounter] = energy_counters(powercap, self._notes)
        self._clock_files = cpufreq_files(processors, self._notes)
        self._clock_hz: list[float] = []
        self._samples: list[GpuSample] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._started_s = self._ended_s = 0.0
        self._gpu_energy_j: float | None = None

    def __enter__(self) -> Self:
        self._started_s = time.perf_counter()
        if self._gpu is not None:
            self._gpu_energy_j = self._gpu.energy_j()
        if self._gpu is not None or self._counters or self._clock_files:
            self._sample(0)
            self._thread = threading.Thread(target=self._run, name="power", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._sample(1)
        self._ended_s = time.perf_counter()
        if self._gpu is not None:
            began_j, ended_j = self._gpu_energy_j, self._gpu.energy_j()
            self._gpu_energy_j = None if began_j is None or ended_j is None else ended_j - began_j
            self._gpu.close()

    def record(self) -> Power:
        """Return what was told between the ends of the block."""
        gpu = None
        if self._gpu is not None:
            gpu = GpuPower(name=self._gpu.name, uuid=self._gpu.uuid, samples=self._samples, energy_j=self._gpu_energy_j)
        energy_j: dict[str, float] = {}
        for counter in self._counters:
            energy_j[counter.name] = energy_j.get(counter.name, 0.0) + counter.energy_j
        return Power(
            duration_s=self._ended_s - self._started_s,
            gpu=gpu,
            processor_energy_j=energy_j or None,
            processor_clock_hz=self._clock_hz or None,
            notes=self._notes,
        )

    def _run(self) -> None:
        number = 1
        while not self._stop.wait(PERIOD_S):
            self._sample(number)
            number += 1

    def _sample(self, number: int) -> None:
        for counter in self._counters:  # Often enough that none wraps around twice unseen.
            counter.read()
        if self._clock_files and number % _CLOCK_EVERY == 0:
            self._clock_hz += clocks_hz(self._clock_files)
        if self._gpu is not None:
            self._samples.append(self._gpu.sample(time.perf_counter() - self._started_s))
