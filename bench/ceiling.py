"""The machine's own ceiling: what its libraries reach at best, so that a latency can be told as a share of it.

Tables of peak rates do not do: one name of a processor stands for several generations, two virtual cores may be one
real core, and a hypervisor's neighbours take what they take. So a convolution and a matrix product without anything
around them are timed in a process of their own, at each precision that the runtime really computes in, and a copy of
memory. A ceiling is a maximum: of all repetitions the fastest counts, and all are kept.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from bench.worker_process import started_worker
from harness.core.files import write_text_atomically
from harness.core.machine import ForeignLoad, machine_description

Device = Literal["cpu", "cuda"]
Operation = Literal["convolution", "matrix product"]
FOLDER_NAME = "ceiling"  # In the folder of runs.
# As for the rounds of a trial: above it, what was measured is partly somebody else's load.
_MOST_FOREIGN_CORES = 0.15
# Far above the ten seconds that it takes.
_LIMIT_S = 180.0
# Under somebody else's load the rates were seen at a quarter. So quiet is waited for, but not for ever.
_PATIENCE_S = 15.0


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MeasureCeiling(_Record):
    """What a child process is asked to measure.

    Two convolutions of 3 x 3 without padding, `channels` to `channels`, from `side_px` on; a product of two square
    matrices; a copy of `copied_bytes`. A batch and a size of which the library's fastest kernels are known to be fond.
    """

    device: Device = "cpu"
    threads: int
    channels: int = 256
    side_px: int = 30
    batch_size: int = 8
    matrix_size: int = 2048
    copied_bytes: int = 256 * 2**20  # Beyond every cache, so that memory itself is timed.
    rounds: int = 3
    round_s: float = 0.12


class Rate(_Record):
    """One operation at one precision: its work, all of it effective, and how long each repetition took."""

    operation: Operation
    precision: str
    flop: int
    duration_s: list[float]

    @property
    def flop_per_s(self) -> float:
        return self.flop / min(self.duration_s)

    @property
    def median_flop_per_s(self) -> float:
        return self.flop / float(np.median(self.duration_s))


class MemoryRate(_Record):
    """A copy: `counted_bytes` are those read and those written, and none that a cache fetches unasked."""

    counted_bytes: int
    duration_s: list[float]


class MeasuredCeiling(_Record):
    """The child's reply. `notes` say what is not there and why; `cpu_s` is the process's, from its start."""

    device_name: str
    library: str
    version: str
    rates: list[Rate]
    memory: MemoryRate
    notes: list[str]
    cpu_s: float


class Ceiling(_Record):
    """What a device reaches at best with so many threads."""

    device: Device
    device_name: str
    threads: int
    library: str
    version: str
    rates: list[Rate]
    memory: MemoryRate
    notes: list[str]
    foreign_cores: float | None
    created: str
    machine: dict[str, JsonValue]

    @property
    def bandwidth_bytes_per_s(self) -> float:
        return self.memory.counted_bytes / min(self.memory.duration_s)

    @property
    def contended(self) -> bool:
        """Whether others used the machine meanwhile, so that the ceiling may be too low."""
        return self.foreign_cores is not None and self.foreign_cores > _MOST_FOREIGN_CORES

    def flop_per_s(self, precision: str) -> float | None:
        """Return the rate of the best operation at a precision, None where none ran in it."""
        return max((each.flop_per_s for each in self.rates if each.precision == precision), default=None)


def ceiling_path(runs_folder: Path, device: Device, threads: int) -> Path:
    return runs_folder / FOLDER_NAME / f"{device}.t{threads}.json"


def ensured_ceiling(runs_folder: Path, *, device: Device = "cpu", threads: int, again: bool = False) -> Ceiling:
    """Return the ceiling of this machine, measured now where there is none of it, when others are quiet.

    One that others disturbed is measured again, and the better of both counts. Raises BackendError where the child
    process fails, dies or hangs, and ArtifactError where the record cannot be written.
    """
    # Not above: the child process imports this module, too, and all of scipy would come along.
    from bench.timing import wait_until_quiet

    stored = stored_ceiling(runs_folder, device, threads)
    if stored is not None and not again and not stored.contended:
        return stored
    path = ceiling_path(runs_folder, device, threads)
    wait_until_quiet(_PATIENCE_S)
    measured = measure_ceiling(request_for(device, threads), path.with_suffix(".log"))
    if stored is not None and not again:
        measured = _better_of(stored, measured)
    write_text_atomically(path, measured.model_dump_json(indent=1) + "\n")
    return measured


def stored_ceiling(runs_folder: Path, device: Device, threads: int) -> Ceiling | None:
    """Return the ceiling in the folder of runs, None where there is none of this very machine and its packages."""
    ceiling = ceiling_from_file(ceiling_path(runs_folder, device, threads))
    return ceiling if ceiling is not None and ceiling.machine == machine_description() else None


def ceiling_from_file(path: Path) -> Ceiling | None:
    """Return a stored ceiling, of whatever machine; None where there is none, or one of another version."""
    try:
        return Ceiling.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError, UnicodeDecodeError):
        return None


def request_for(device: Device, threads: int) -> MeasureCeiling:
    """Return what to measure: a GPU needs more work at once before it is busy."""
    if device == "cpu":
        return MeasureCeiling(threads=threads)
    return MeasureCeiling(
        device=device, threads=threads, side_px=58, batch_size=64, matrix_size=8192, copied_bytes=2**30
    )


def measure_ceiling(request: MeasureCeiling, log: Path) -> Ceiling:
    """Measure in a child process; raise BackendError where it fails, dies or hangs."""
    foreign = ForeignLoad()
    with ExitStack() as stack:
        worker = started_worker(stack, log, module="bench.ceiling_worker", limit_s=_LIMIT_S)
        reply = worker.ask(request, MeasuredCeiling)
        foreign_cores = foreign.cores(worker_cpu_s=reply.cpu_s)
    return Ceiling(
        device=request.device,
        threads=request.threads,
        **{name: getattr(reply, name) for name in ("device_name", "library", "version", "rates", "memory", "notes")},
        foreign_cores=foreign_cores,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine_description(),
    )


def _better_of(stored: Ceiling, measured: Ceiling) -> Ceiling:
    """Return the newer record with the higher rate of both, for each operation and for memory."""
    if (stored.library, stored.version) != (measured.library, measured.version):
        return measured
    known = {(each.operation, each.precision): each for each in stored.rates}
    rates = [max(each, known.get((each.operation, each.precision), each), key=_rate) for each in measured.rates]
    memory = max(stored.memory, measured.memory, key=lambda each: each.counted_bytes / min(each.duration_s))
    return measured.model_copy(update={"rates": rates, "memory": memory})


def _rate(rate: Rate) -> float:
    return rate.flop_per_s
