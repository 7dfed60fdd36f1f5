"""Timings as tests want them: one list of block medians per process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.timings import Instance, Round, Timing


def block(number: int, call_s: float, **changes: Any) -> Round:
    made = {"compute_s": [call_s / 2] * 3, "end_to_end_s": [call_s] * 3, "foreign_cores": 0.0, "accepted": True}
    return Round(number=number, **{**made, **changes})


def timing_of(
    processes: Sequence[Sequence[float]], *, session: str = "one", baseline_s: float | None = None, **changes: Any
) -> Timing:
    """Return a timing whose blocks of three calls each took so many seconds a call."""
    return timing_from_rounds(
        [[block(number, each, baseline_s=baseline_s) for number, each in enumerate(one)] for one in processes],
        session=session,
        **changes,
    )


def timing_from_rounds(processes: Sequence[Sequence[Round]], *, session: str = "one", **changes: Any) -> Timing:
    instances = [
        Instance(
            number=number,
            position=0,
            load_s=0.5,
            first_call_s=0.02,
            warm_up_calls=40,
            warm_up_s=0.5,
            peak_memory_bytes=100_000_000,
            rounds=list(rounds),
        )
        for number, rounds in enumerate(processes)
    ]
    planned = {
        "mode": "full",
        "trials": 1,
        "planned_instances": len(instances),
        "planned_rounds": max((len(one) for one in processes), default=0),
    }
    return Timing(session=session, instances=instances, **{**planned, **changes})
