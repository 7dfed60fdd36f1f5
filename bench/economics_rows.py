"""A sweep as cells of text; only here do seconds become ms and shares per cent."""

from __future__ import annotations

from collections.abc import Sequence

from bench.economics import BreakEven, SweepPoint, break_even_of, cost_per_million, knees, pareto_points

# Beyond, it is no saving that anybody will see.
_MOST_DAYS = 10_000


def sweep_rows(
    points: Sequence[SweepPoint], *, price_per_hour: float | None = None, images_per_day: float | None = None
) -> list[list[str]]:
    """Return one row of SWEEP_COLUMNS per point; cost needs a price, days need a traffic."""
    knee_points, best_points = knees(points), pareto_points(points)
    rows = []
    for point in points:
        marks = ["knee"] * (point in knee_points) + ["Pareto"] * (point in best_points)
        cost = ""
        if price_per_hour is not None and point.images_per_s is not None:
            cost = f"{cost_per_million(price_per_hour, point.images_per_s):.4g}"
        rows.append(
            [
                *(point.run, point.artifact, point.backend, str(point.threads), str(point.batch_size), point.verdict),
                _cell(point.median_s, 1e3, ".2f"),
                _cell(point.images_per_s, 1, ".1f"),
                "" if point.share_of_ceiling is None else f"{100 * point.share_of_ceiling:.0f} %",
                _cell(point.compute_floor_s, 1e3, ".2f"),
                cost,
                ", ".join(marks),
                _memory_cell(point),
                _cell(point.load_s, 1, ".2f"),
                _cell(point.first_call_s, 1e3, ".1f"),
                _build_cell(point),
                _break_even_cell(point, images_per_day),
            ]
        )
    return rows


def _cell(value: float | None, factor: float, form: str) -> str:
    return "" if value is None else format(factor * value, form)


def _memory_cell(point: SweepPoint) -> str:
    resident = _cell(point.memory_bytes, 1e-6, ".0f")
    device = _cell(point.device_memory_bytes, 1e-6, ".0f")
    return f"{resident} + {device} on the GPU".removeprefix(" + ") if device else resident


def _build_cell(point: SweepPoint) -> str:
    build = _cell(point.build_s, 1, ".1f")
    return f"{build} + {point.calibration_s:.1f} calibration" if build and point.calibration_s is not None else build


def _break_even_cell(point: SweepPoint, images_per_day: float | None) -> str:
    found = break_even_of(point, images_per_day)
    return "" if found is None else break_even_text(found)


def break_even_text(found: BreakEven) -> str:
    """Return images and days in words, as exactly as such a figure deserves."""
    images = f"{_two_digits(found.images)} images"
    if found.days is None:
        return images
    if found.days > _MOST_DAYS:
        return f"{images}, never in practice"
    return f"{images}, {found.days:.2g} days" if found.days >= 1 else f"{images}, under a day"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"
