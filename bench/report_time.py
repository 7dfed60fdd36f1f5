"""The part of a report that is about time: noise, times, sweep, ceilings and power, as Markdown and for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.ceiling import Ceiling
from bench.economics import SWEEP_COLUMNS, SweepPoint, break_even_of, cost_per_million, knees, pareto_points
from bench.economics_rows import sweep_rows
from bench.limit import CEILING_COLUMNS, ceiling_rows
from bench.results import TrialResult
from bench.sweep import ceilings_of, sweep_points
from bench.tables import markdown_table
from bench.time_tables import TIMING_COLUMNS, noise_lines, power_lines, timing_rows
from harness.core.runs import RunDirectory

_SWEEP_READING = (
    "Sweep. *knee*: the smallest batch with 95 % of the best throughput over batch sizes; *Pareto*: no other trial of "
    "the run is better in latency and throughput both; one in a queue has no latency and is marked where none has more "
    "images/s. *Of ceiling*: effective FLOP a second as a share of what this machine's best kernel reached; *floor "
    "ms*: the least that a call could take by that. Break-even: images until build and calibration are paid for by "
    "time saved against eager PyTorch in the same session."
)


@dataclass(frozen=True, kw_only=True)
class Economics:
    """What the user pays and expects; None where not said."""

    price_per_hour: float | None = None
    images_per_day: float | None = None


NO_ECONOMICS = Economics()


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a run's times are worth."""

    points: list[SweepPoint]
    ceilings: list[Ceiling]


def speed_of_run(runs_folder: Path, run: RunDirectory, results: list[TrialResult]) -> Speed:
    """Return the sweep of a run's results and the ceilings that they are held to."""
    ceilings = ceilings_of(runs_folder, results)
    return Speed(points=sweep_points(run, results, ceilings), ceilings=ceilings)


def time_lines(results: list[TrialResult], speed: Speed, economics: Economics) -> list[str]:
    """Return the noise of every session, the table of times, the sweep, and what is known of ceiling and power."""
    times = timing_rows(results)
    if not times:
        return []
    lines = [*(f"- {line}" for line in noise_lines(results)), "", "Times:", "", *markdown_table(TIMING_COLUMNS, times)]
    told = {"price_per_hour": economics.price_per_hour, "images_per_day": economics.images_per_day}
    columns, rows = SWEEP_COLUMNS[1:], [row[1:] for row in sweep_rows(speed.points, **told)]
    lines += ["", _SWEEP_READING, "", *markdown_table(columns, rows), "", *_ceiling_lines(speed)]
    if economics.price_per_hour is None:
        lines.append("- Cost: `harness report --price-per-hour P` adds it.")
    return [*lines, *(f"- {line}" for line in power_lines(results)), ""]


def _ceiling_lines(speed: Speed) -> list[str]:
    if not speed.ceilings:
        return [
            "- The machine's ceiling was not measured; `harness bench` without `--quick` does.",
            "",
        ]
    lines = ["The machine's ceiling:", "", *markdown_table(CEILING_COLUMNS, ceiling_rows(speed.ceilings)), ""]
    if any(each.contended for each in speed.ceilings):
        lines.append("- A ceiling was measured while others used the machine: its shares are **contended**, too high.")
    return lines


def time_json(speed: Speed, economics: Economics) -> dict[str, Any]:
    """Return sweep and ceilings for machines."""
    knee_points, best_points = knees(speed.points), pareto_points(speed.points)
    return {
        "sweep": [
            asdict(point)
            | {
                "knee": point in knee_points,
                "pareto": point in best_points,
                "cost_per_million": _cost(point, economics.price_per_hour),
                "break_even": _break_even(point, economics.images_per_day),
            }
            for point in speed.points
        ],
        "ceilings": [each.model_dump(mode="json") for each in speed.ceilings],
    }


def _cost(point: SweepPoint, price_per_hour: float | None) -> float | None:
    if price_per_hour is None or point.images_per_s is None:
        return None
    return cost_per_million(price_per_hour, point.images_per_s)


def _break_even(point: SweepPoint, images_per_day: float | None) -> dict[str, Any] | None:
    found = break_even_of(point, images_per_day)
    return asdict(found) if found is not None else None
