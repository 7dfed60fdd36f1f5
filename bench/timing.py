"""Time several loaded models against each other: short blocks in turn, so that the machine's drift hits all alike.

Hour-scale drift on shared machines reached 14 %; within one round of a few hundred milliseconds it cancels in the
ratio. The order rotates every round, so that no trial always follows the same neighbour. A round during which
others used more than 0.15 core is measured again; the rule is fixed beforehand, and what was rejected is kept and
counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.messages import Block, Timed, WarmedUp, WarmUp
from bench.results import Round, Timing
from bench.worker_process import WorkerProcess
from harness.core.errors import BackendError
from harness.core.machine import ForeignLoad
from harness.core.progress import Progress

_FOREIGN_LIMIT_CORES = 0.15


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. A block has at least `calls` calls and lasts at least `block_s`."""

    rounds: int
    calls: int
    block_s: float
    warm_up_calls: int
    quick: bool
    settle_calls: int = 3
    warm_up_s: float = 0.5


# /proc/stat counts in hundredths of a second: shorter blocks could not tell 0.15 core from nothing.
FULL = Plan(rounds=6, calls=12, block_s=0.25, warm_up_calls=40, quick=False)
QUICK = Plan(rounds=3, calls=4, block_s=0.25, warm_up_calls=5, quick=True, settle_calls=1)


@dataclass(kw_only=True)
class _Running:
    worker: WorkerProcess
    warm_up: WarmedUp
    calls: int
    rounds: list[Round]


def timed_together(
    workers: Mapping[str, WorkerProcess],
    load_s: Mapping[str, float],
    plan: Plan,
    progress: Progress,
    *,
    description: str,
) -> tuple[dict[str, Timing], dict[str, BackendError]]:
    """Return the timing of every worker, and the error of each that failed on the way; the others go on."""
    running: dict[str, _Running] = {}
    failed: dict[str, BackendError] = {}
    for name, worker in workers.items():
        try:
            running[name] = _warmed_up(worker, plan)
        except BackendError as error:
            failed[name] = error
    accepted, number = 0, 0
    with progress.task(description, total=plan.rounds) as task:
        # Twice the rounds is the most: a machine that is never quiet is reported as such, not waited for.
        while running and accepted < plan.rounds and number < 2 * plan.rounds:
            quiet = _measured_round(running, failed, number, plan)
            accepted += quiet
            number += 1
            task.advance(int(quiet))
    timings = {
        name: Timing(
            load_s=load_s[name],
            first_call_s=each.warm_up.first_call_s,
            warm_up_calls=each.warm_up.calls,
            rounds=each.rounds,
            contended=accepted < plan.rounds,
        )
        for name, each in running.items()
    }
    return timings, failed


def _warmed_up(worker: WorkerProcess, plan: Plan) -> _Running:
    warm_up = worker.ask(WarmUp(calls=plan.warm_up_calls, duration_s=plan.warm_up_s), WarmedUp)
    call_s = warm_up.duration_s / warm_up.calls
    calls = max(plan.calls, math.ceil(plan.block_s / call_s))
    return _Running(worker=worker, warm_up=warm_up, calls=calls, rounds=[])


def _measured_round(running: dict[str, _Running], failed: dict[str, BackendError], number: int, plan: Plan) -> bool:
    """Measure one block of every worker; return whether the machine was ours throughout."""
    names = list(running)
    shift = number % len(names)
    measured: dict[str, tuple[Timed, float | None]] = {}
    for name in names[shift:] + names[:shift]:
        each = running[name]
        load = ForeignLoad()
        try:
            timed = each.worker.ask(Block(settle_calls=plan.settle_calls, calls=each.calls), Timed)
        except BackendError as error:
            failed[name] = error
            del running[name]
            continue
        measured[name] = timed, load.cores(worker_cpu_s=timed.cpu_s)
    quiet = all(foreign is None or foreign <= _FOREIGN_LIMIT_CORES for _, foreign in measured.values())
    for name, (timed, foreign) in measured.items():
        running[name].rounds.append(
            Round(
                number=number,
                compute_s=timed.compute_s,
                end_to_end_s=timed.end_to_end_s,
                foreign_cores=foreign,
                accepted=quiet,
            )
        )
    return quiet
