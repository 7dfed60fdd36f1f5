"""Time several loaded models against each other: fresh processes, short blocks in turn, the whole set again and again.

A process keeps, for as long as it lives, a speed that differs by about 1 % from that of the next process of the same
model, and of two the one started later was found to be faster. So a comparison takes several sets of processes (pairs,
where two models are compared), started in an order that gives every two of them both places equally often. Within a
set each round lets every model have its turn, in an order that is reversed and rotated from round to round: hour-scale
drift reached 14 %, and within one round it cancels in the ratio.

A round during which others used more than 0.15 core is measured again; the rule is fixed beforehand, and what was
rejected is kept and counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from bench.backends.interface import Float32s
from bench.messages import Block, Load, Loaded, Recheck, Rechecked, Timed, Usage, Used, WarmedUp, WarmUp
from bench.power import Power, PowerSampler
from bench.same_model import check_as_asked, check_same_answers
from bench.timings import Instance, Mode, Round
from bench.worker_process import WorkerProcess, started_worker
from harness.core.errors import BackendError
from harness.core.machine import ForeignLoad
from harness.core.progress import Task

_FOREIGN_LIMIT_CORES = 0.15
_QUIET_CORES = 0.08
_QUIET_WINDOWS = 3
_WINDOW_S = 0.5
_Name = TypeVar("_Name")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. A block has at least `calls` calls and lasts `block_s`, but no more than `most_block_s`.

    A model whose calls take seconds gets fewer, but three; so does its warm-up. `quiet_within_s` is how long to wait
    for a quiet machine before each set of processes, `rest_s` the pause before each block.
    """

    mode: Mode
    instances: int
    rounds: int
    calls: int
    block_s: float
    warm_up_calls: int
    settle_calls: int = 3
    warm_up_s: float = 0.5
    most_block_s: float = 2.0
    most_warm_up_s: float = 10.0
    quiet_within_s: float = 0.0
    # ONNX Runtime's threads spin on for some 50 ms after their last call, and took 0.13 core of the next trial's block.
    rest_s: float = 0.1


# /proc/stat counts in hundredths of a second: shorter blocks could not tell 0.15 core from nothing.
FULL = Plan(mode="full", instances=8, rounds=8, calls=12, block_s=0.25, warm_up_calls=40, quiet_within_s=60.0)
STRICT = replace(FULL, mode="strict", instances=12, rounds=12)
QUICK = Plan(
    mode="quick", instances=1, rounds=3, calls=4, block_s=0.25, warm_up_calls=5, settle_calls=1, most_block_s=1.0
)
UNTIMED = replace(QUICK, mode="untimed", instances=0)
PLANS: dict[Mode, Plan] = {each.mode: each for each in (UNTIMED, QUICK, FULL, STRICT)}


@dataclass(frozen=True, kw_only=True)
class Participant:
    """One model of a session; `outputs_bc` is what the proved process answered to the first rows of `load`."""

    name: str
    load: Load
    log: Path
    outputs_bc: Float32s
    on_gpu: bool = False
    module: str = "bench.worker"


@dataclass(kw_only=True)
class _Running:
    worker: WorkerProcess
    position: int
    load_s: float
    first_call_s: float
    warm_up: WarmedUp
    calls: int
    settle_calls: int
    on_gpu: bool
    device_memory_bytes: int | None
    rounds: list[Round] = field(default_factory=list)
    power_notes: list[str] = field(default_factory=list)
    used: Used | None = None


def turned(names: Sequence[_Name], number: int) -> list[_Name]:
    """Return the order of a round or a launch: reversed every second time, rotated every second.

    Of two it makes AB BA BA AB: each comes first equally often. Of more, every order is followed by its reverse, and
    then rotated: of any two each comes first equally often, and all were at every place after twice their number.
    """
    shift = (number + 1) // 2 % len(names) if len(names) == 2 else number // 2 % len(names)
    order = [*names[shift:], *names[:shift]]
    if len(names) > 2 and number % 2:
        order.reverse()
    return order


def measured_set(
    participants: Sequence[Participant], baseline: str | None, plan: Plan, number: int, task: Task
) -> tuple[dict[str, Instance], dict[str, BackendError]]:
    """Start one process of each model, measure them in turn, and end them.

    Returns what was measured of each, and the error of each that failed on the way; the others go on. The task is
    advanced once per accepted round. `baseline` names the participant whose medians are noted in every round.
    """
    quiet = wait_until_quiet(plan.quiet_within_s) if plan.quiet_within_s else None
    failed: dict[str, BackendError] = {}
    with ExitStack() as stack:
        running = _started(participants, plan, number, failed, stack)
        accepted = attempt = 0
        # Twice the rounds is the most: a machine that is never quiet is reported as such, not waited for.
        while running and accepted < plan.rounds and attempt < 2 * plan.rounds:
            quiet_round = _measured_round(running, failed, attempt, plan, baseline)
            accepted += quiet_round
            attempt += 1
            task.advance(int(quiet_round), note=f"set {number + 1} of {plan.instances}")
        for name in list(running):
            try:
                running[name].used = running[name].worker.ask(Usage(), Used)
            except BackendError as error:
                failed[name] = error
                del running[name]
    return {name: _instance(each, number, quiet) for name, each in running.items()}, failed


def _instance(each: _Running, number: int, quiet: bool | None) -> Instance:
    assert each.used is not None, "asked of every worker that is still running"
    return Instance(
        number=number,
        position=each.position,
        load_s=each.load_s,
        first_call_s=each.first_call_s,
        warm_up_calls=each.warm_up.calls,
        warm_up_s=each.warm_up.duration_s,
        quiet_before=quiet,
        peak_memory_bytes=each.used.peak_memory_bytes,
        device_memory_bytes=each.device_memory_bytes,
        power_notes=each.power_notes,
        rounds=each.rounds,
    )


def _started(
    participants: Sequence[Participant], plan: Plan, number: int, failed: dict[str, BackendError], stack: ExitStack
) -> dict[str, _Running]:
    """Start, check and warm up one process after the other; they come back in the participants' own order."""
    running: dict[str, _Running] = {}
    for position, each in enumerate(turned(participants, number)):
        worker = started_worker(stack, each.log, module=each.module)
        try:
            running[each.name] = _warmed_up(worker, each, plan, position)
        except BackendError as error:
            worker.kill()
            failed[each.name] = error
    return {each.name: running[each.name] for each in participants if each.name in running}


def _warmed_up(worker: WorkerProcess, participant: Participant, plan: Plan, position: int) -> _Running:
    loaded = worker.ask(participant.load, Loaded)
    check_as_asked(loaded.description)
    rechecked = worker.ask(Recheck(count=len(participant.outputs_bc)), Rechecked)
    check_same_answers(np.array(rechecked.outputs, dtype=np.float64), participant.outputs_bc)
    message = WarmUp(calls=plan.warm_up_calls, duration_s=plan.warm_up_s, most_s=plan.most_warm_up_s)
    warm_up = worker.ask(message, WarmedUp)
    # Before the next process starts: on a GPU the memory of all that came later would count as this one's.
    used = worker.ask(Usage(), Used)
    return _Running(
        worker=worker,
        position=position,
        load_s=loaded.load_s,
        first_call_s=rechecked.first_call_s,
        warm_up=warm_up,
        calls=calls_of_block(plan, warm_up.later_call_s, warm_up.at_once),
        settle_calls=max(plan.settle_calls, warm_up.at_once),
        on_gpu=participant.on_gpu,
        device_memory_bytes=used.device_memory_bytes,
    )


def calls_of_block(plan: Plan, call_s: float, at_once: int) -> int:
    """Return how many calls make a block, from what one takes by itself.

    A queue that works on several at once takes as many more, in whole fillings and eight at least: while it fills and
    empties some of its requests are idle, and with fewer that would be told as the runtime's throughput.
    """
    calls = max(plan.calls, math.ceil(plan.block_s / call_s))
    calls = max(3, min(calls, math.floor(plan.most_block_s / call_s)))
    return calls if at_once == 1 else at_once * max(calls, 8)


def _measured_round(
    running: dict[str, _Running], failed: dict[str, BackendError], number: int, plan: Plan, baseline: str | None
) -> bool:
    """Measure one block of every worker; return whether the machine was ours throughout."""
    measured: dict[str, tuple[Timed, float | None, Power]] = {}
    for name in turned(list(running), number):
        each = running[name]
        time.sleep(plan.rest_s)
        with PowerSampler(gpu_index=0 if each.on_gpu else None) as sampler:
            load = ForeignLoad()
            try:
                timed = each.worker.ask(Block(settle_calls=each.settle_calls, calls=each.calls), Timed)
            except BackendError as error:
                failed[name] = error
                del running[name]
                continue
            foreign = load.cores(worker_cpu_s=timed.cpu_s)
        measured[name] = timed, foreign, sampler.record()
        each.power_notes = measured[name][2].notes
    quiet = all(undisturbed(foreign, power) for _, foreign, power in measured.values())
    blocks = {
        name: Round(
            number=number,
            compute_s=timed.compute_s,
            end_to_end_s=timed.end_to_end_s,
            device_s=timed.device_s,
            queue_s=timed.queue_s,
            foreign_cores=foreign,
            accepted=quiet,
            power=power if power.tells_anything else None,
        )
        for name, (timed, foreign, power) in measured.items()
    }
    baseline_s = blocks[baseline].call_s if baseline in blocks else None
    for name, block in blocks.items():
        running[name].rounds.append(block.model_copy(update={"baseline_s": baseline_s}))
    return quiet


def undisturbed(foreign_cores: float | None, power: Power) -> bool:
    """Tell whether a block counts: others used little of the machine, and no GPU slowed itself down."""
    throttled = power.gpu is not None and bool(power.gpu.throttled_samples)
    return not throttled and (foreign_cores is None or foreign_cores <= _FOREIGN_LIMIT_CORES)


def wait_until_quiet(within_s: float) -> bool:
    """Wait until others use less than 0.08 core for 1.5 s; return whether that came within the time given."""
    deadline_s, quiet = time.monotonic() + within_s, 0
    while quiet < _QUIET_WINDOWS:
        if time.monotonic() > deadline_s:
            return False
        load = ForeignLoad()
        time.sleep(_WINDOW_S)
        foreign = load.cores(worker_cpu_s=0.0)
        quiet = quiet + 1 if foreign is None or foreign < _QUIET_CORES else 0
    return True
