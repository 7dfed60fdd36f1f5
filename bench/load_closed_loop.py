"""The closed loop before a scenario or a pause: it decides rates, searches and ratios, so it is guarded as they are."""

from __future__ import annotations

from dataclasses import dataclass

from bench.load_records import is_contended
from bench.messages import Block, Timed
from bench.worker_process import WorkerProcess
from harness.core.machine import ForeignLoad

_BLOCK = Block(settle_calls=3, calls=100, call_by_call=True)
# 100 calls of a small model take a tenth of a second, in which /proc/stat's hundredths are 0.1 core: one loop may look
# disturbed by chance, three hardly.
_MOST_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Seconds of each call, end to end, and how many cores others used meanwhile; None where that is not told."""

    calls_s: list[float]
    foreign_cores: float | None


def measured_closed_loop(worker: WorkerProcess) -> ClosedLoop:
    """Time 100 calls, again where others used more than 0.15 core, thrice at most; return the least disturbed.

    Raises BackendError where the process fails, dies or hangs.
    """
    loops: list[ClosedLoop] = []
    while len(loops) < _MOST_ATTEMPTS and (not loops or is_contended(loops[-1].foreign_cores)):
        load = ForeignLoad()
        timed = worker.ask(_BLOCK, Timed)
        loops.append(ClosedLoop(calls_s=timed.end_to_end_s, foreign_cores=load.cores(worker_cpu_s=timed.cpu_s)))
    return min(loops, key=lambda each: each.foreign_cores or 0.0)
