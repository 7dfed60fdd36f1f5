"""Blocks of several ways to measure one thing, in turn: neighbours share the machine's mood, and their ratio does not.

Of two the order is AB BA BA AB, so that neither always follows the other; three rotate. A round
during which others used the machine is measured again, as in every session (bench/timing.py): that rule, too, is fixed
beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from bench.time_statistics import Ratio, ratio_from_logs
from bench.timing import turned, wait_until_quiet
from harness.core.machine import ForeignLoad

# A block measures one figure or several from the same calls, by name.
Block = Callable[[], Mapping[str, float]]
_FOREIGN_LIMIT_CORES = 0.15
_QUIET_WITHIN_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured beside each peer; `wait` for a quiet machine before the first round, within a limit."""

    rounds: int
    calls: int
    queued_calls: int
    load_rounds: int
    load_calls: int
    wait: bool


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """The figures of every used round. `contended`: too few rounds were quiet, so that all of them were used."""

    figures: list[dict[str, float]]
    rejected: int
    contended: bool

    def typical(self, name: str) -> float:
        return median(each[name] for each in self.figures)

    def ratio(self, first: str, second: str) -> Ratio:
        """Return the first figure divided by the second, with its t-interval over rounds."""
        return ratio_from_logs([math.log(each[first] / each[second]) for each in self.figures])


def alternated(blocks: Mapping[str, Block], count: int, *, wait: bool) -> Rounds:
    """Measure rounds in which every block has its turn, until so many were quiet; twice as many is the most."""
    if wait:
        wait_until_quiet(_QUIET_WITHIN_S)
    quiet: list[dict[str, float]] = []
    others: list[dict[str, float]] = []
    number = 0
    while len(quiet) < count and number < 2 * count:
        load, found = ForeignLoad(), dict[str, float]()
        for name in turned(list(blocks), number):
            found |= blocks[name]()
        foreign = load.cores(worker_cpu_s=0.0)
        (quiet if foreign is None or foreign <= _FOREIGN_LIMIT_CORES else others).append(found)
        number += 1
    contended = len(quiet) < count
    return Rounds(figures=quiet + others if contended else quiet, rejected=len(others), contended=contended)
