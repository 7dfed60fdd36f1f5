"""What the first call after a pause costs, beside calls without one.

A film an hour is how a ward works, and a closed loop is how everybody measures: after a pause the caches are cold, the
runtime's threads asleep, the processor perhaps slow. Raw samples are kept; ten repeats are enough for a median only.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from bench.load_closed_loop import ClosedLoop, measured_closed_loop
from bench.load_messages import Rest, Rested
from bench.load_records import is_contended, load_folder
from bench.results import Trial
from bench.scenarios import Subject, prepared_worker
from harness.core.errors import ArtifactError, BackendError
from harness.core.files import write_text_atomically
from harness.core.machine import ForeignLoad, machine_description
from harness.core.runs import RunDirectory

# Untimed after each first call, so that every pause begins from a warm model.
_SETTLE_CALLS = 5
_LIMIT_S = 60.0
IDLE_COLUMNS = [
    "run",
    "variant",
    "runtime",
    "batch",
    "calls",
    "closed loop p50 ms",
    "pause",
    "first call p50 ms",
    "ratio",
    "note",
]


@dataclass(frozen=True, kw_only=True)
class IdlePlan:
    """Lengths of pauses, how often each is repeated, and how long to wait for a quiet machine before all of them."""

    repeats: dict[float, int]
    quick: bool
    quiet_within_s: float = 0.0


FULL_IDLE = IdlePlan(repeats={1.0: 10, 10.0: 3}, quick=False, quiet_within_s=60.0)
QUICK_IDLE = IdlePlan(repeats={1.0: 5}, quick=True)


class Gap(BaseModel):
    """The first call after each pause, in the order taken.

    `foreign_cores` is over pauses and calls together: a call alone is shorter than what /proc/stat can tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pause_s: float
    first_call_s: list[float]
    foreign_cores: float | None = None

    @property
    def median_s(self) -> float:
        return float(np.median(self.first_call_s))


class IdleGapResult(BaseModel):
    """All pauses of one trial; the closed loop was in the same process before them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: Trial
    artifact_sha256: str | None
    verdict: str
    status: str = "measured"
    reason: str = ""
    quick: bool
    closed_loop_s: list[float] = []
    closed_loop_foreign_cores: float | None = None
    gaps: list[Gap] = []
    created: str
    machine: dict[str, JsonValue]

    @property
    def closed_loop_median_s(self) -> float:
        return float(np.median(self.closed_loop_s))

    @property
    def contended(self) -> bool:
        """Whether others used the machine too much for the record to be kept."""
        told = [self.closed_loop_foreign_cores, *(each.foreign_cores for each in self.gaps)]
        return any(is_contended(each) for each in told)


def measure_idle_gaps(subject: Subject, plan: IdlePlan = FULL_IDLE) -> IdleGapResult:
    """Measure and write the pauses of one trial; a process that fails is a result with its reason."""
    result = IdleGapResult(
        trial=subject.trial,
        artifact_sha256=subject.artifact_sha256,
        verdict=subject.verdict,
        quick=plan.quick,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine_description(),
    )
    try:
        loop, gaps = _measured(subject, plan)
        told = {"closed_loop_s": loop.calls_s, "closed_loop_foreign_cores": loop.foreign_cores, "gaps": gaps}
        result = result.model_copy(update=told)
    except BackendError as error:
        result = result.model_copy(update={"status": "failed", "reason": error.message})
    write_text_atomically(idle_gap_path(subject.run, subject.trial), result.model_dump_json(indent=1) + "\n")
    return result


def _measured(subject: Subject, plan: IdlePlan) -> tuple[ClosedLoop, list[Gap]]:
    log = load_folder(subject.run) / f"{subject.trial.identifier}.idle-gap.log"
    with ExitStack() as stack:
        worker = prepared_worker(subject, stack, log, quiet_within_s=plan.quiet_within_s)
        loop = measured_closed_loop(worker)
        gaps = []
        for pause_s, repeats in plan.repeats.items():
            message = Rest(pause_s=pause_s, repeats=repeats, settle_calls=_SETTLE_CALLS)
            load = ForeignLoad()
            rested = worker.ask(message, Rested, limit_s=_LIMIT_S + 2 * pause_s * repeats)
            foreign_cores = load.cores(worker_cpu_s=rested.cpu_s)
            gaps.append(Gap(pause_s=pause_s, first_call_s=rested.first_call_s, foreign_cores=foreign_cores))
        worker.finish()
    return loop, gaps


def idle_gap_path(run: RunDirectory, trial: Trial) -> Path:
    return load_folder(run) / f"{trial.identifier}.idle-gap.json"


def idle_gaps_of_run(run: RunDirectory) -> list[IdleGapResult]:
    """Read all idle-gap records of a run; raise ArtifactError for one that is malformed."""
    results = []
    for path in sorted(load_folder(run).glob("*.idle-gap.json")):
        try:
            results.append(IdleGapResult.model_validate_json(path.read_text(encoding="utf-8")))
        except (ValidationError, UnicodeDecodeError) as error:
            raise ArtifactError(
                f"{path} is not an idle-gap record of this version: {error}",
                hint="Delete it and run `harness bench` again.",
            ) from error
    return results


def idle_gap_rows(results: list[IdleGapResult]) -> list[list[str]]:
    """Return a row for every pause, in milliseconds, the number of calls as loop + pauses; a failure is one row."""
    return [row for result in results for row in _rows(result)]


def _rows(result: IdleGapResult) -> list[list[str]]:
    trial = result.trial
    name = [trial.run, trial.variant, trial.backend, str(trial.batch_size)]
    if result.status != "measured":
        return [[*name, *[""] * 5, result.reason]]
    note = "; ".join(["contended"] * result.contended + ["quick"] * result.quick)
    return [
        [
            *name,
            f"{len(result.closed_loop_s)} + {len(gap.first_call_s)}",
            f"{result.closed_loop_median_s * 1000:.2f}",
            f"{gap.pause_s:g} s",
            f"{gap.median_s * 1000:.2f}",
            f"{gap.median_s / result.closed_loop_median_s:.2f}",
            note,
        ]
        for gap in result.gaps
    ]
