"""What a processor tells of energy (RAPL, through powercap) and clock (cpufreq), in files that many machines lack."""

from __future__ import annotations

import os
from pathlib import Path

_UNREADABLE = "RAPL: {path} may not be read by this user; `sudo chmod a+r {path}` until the next start allows it"


class EnergyCounter:
    """One energy counter of RAPL, which starts at zero again after `max_energy_range_uj`."""

    def __init__(self, folder: Path) -> None:
        self.name = _text(folder / "name")
        self._file = folder / "energy_uj"
        self._range_uj = int(_text(folder / "max_energy_range_uj"))
        self._last_uj: int | None = None
        self._sum_uj = 0
        int(_text(self._file))  # Whether it may be read is known before anything is measured.

    @property
    def energy_j(self) -> float:
        """Joules between the first reading and the last."""
        return self._sum_uj / 1e6

    def read(self) -> None:
        """Add what was used since the last reading; what cannot be read now is in the next one."""
        try:
            now_uj = int(_text(self._file))
        except (OSError, ValueError):
            return
        if self._last_uj is not None:
            step_uj = now_uj - self._last_uj
            # The counter counts 0 ... range: from the last value to the first there is one step.
            self._sum_uj += step_uj if step_uj >= 0 else step_uj + self._range_uj + 1
        self._last_uj = now_uj


def energy_counters(powercap: Path, notes: list[str]) -> list[EnergyCounter]:
    """Return the counters of the packages and their parts, or none and a note that says why.

    AMD's counters go by Intel's name, too. `intel-rapl-mmio` shows a package a second time and is left out.
    """
    folders = sorted(path for path in powercap.glob("intel-rapl:*") if (path / "energy_uj").is_file())
    if not folders:
        notes.append("RAPL: this machine shows no energy counters, as most virtual machines do")
    counters = []
    for folder in folders:
        try:
            counters.append(EnergyCounter(folder))
        except PermissionError:
            notes.append(_UNREADABLE.format(path=folder / "energy_uj"))
        except (OSError, ValueError) as error:
            notes.append(f"RAPL: {folder.name} cannot be read: {error}")
    return counters


def cpufreq_files(processors: Path, notes: list[str]) -> list[Path]:
    """Return where the clocks of this process's cores stand, or none and a note."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    paths = [processors / f"cpu{core}" / "cpufreq" / "scaling_cur_freq" for core in sorted(cores)]
    files = [path for path in paths if path.is_file() and os.access(path, os.R_OK)]
    if not files:
        notes.append("Clock: this machine shows no processor clock (cpufreq)")
    return files


def clocks_hz(files: list[Path]) -> list[float]:
    """Return the mean clock of the cores as a list of one, empty where a core does not tell now."""
    try:
        return [1e3 * sum(int(_text(path)) for path in files) / len(files)]
    except (OSError, ValueError):  # A core that was switched off, or says "<unknown>".
        return []


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
