"""How often the closed loop is measured, and which of the loops counts."""

from __future__ import annotations

from typing import Any

import pytest

from bench import load_closed_loop
from bench.load_closed_loop import ClosedLoop, measured_closed_loop
from bench.messages import Timed


class _Worker:
    """Answers the n-th request with calls of n seconds."""

    asked = 0

    def ask(self, _message: Any, _reply: Any) -> Timed:
        self.asked += 1
        return Timed(end_to_end_s=[float(self.asked)], cpu_s=0.5)


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        ([0.1], 1),
        ([None], 1),
        ([0.2, 0.1], 2),
        ([0.2, None], 2),
        ([0.4, 0.2, 0.3], 2),
        ([0.4, 0.3, 0.15], 3),
    ],
)
def test_a_disturbed_loop_is_measured_again_and_the_least_disturbed_of_three_counts(
    monkeypatch: pytest.MonkeyPatch, told: list[float | None], counts: int
) -> None:
    left = list(told)

    class Told:
        def cores(self, *, worker_cpu_s: float) -> float | None:
            assert worker_cpu_s == 0.5
            return left.pop(0)

    monkeypatch.setattr(load_closed_loop, "ForeignLoad", Told)
    worker: Any = _Worker()
    assert measured_closed_loop(worker) == ClosedLoop(calls_s=[float(counts)], foreign_cores=told[counts - 1])
    assert left == []
