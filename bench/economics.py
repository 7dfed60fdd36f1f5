"""What speed is worth: cost, the batch size beyond which waiting buys nothing, and when a build has paid for itself.

Pure arithmetic on plain figures. Prices and traffic are the user's; nothing is assumed of either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

SWEEP_COLUMNS = [
    "run",
    "artifact",
    "backend",
    "threads",
    "batch",
    "verdict",
    "median ms",
    "images/s",
    "of ceiling",
    "floor ms",
    "cost per million",
    "marks",
    "peak MB",
    "load s",
    "first call ms",
    "build s",
    "break-even",
]
KNEE_SHARE = 0.95
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One trial of a sweep in figures; what was not measured is None.

    `build_s` is what the artifact and all that it was made from took to make, `calibration_s` comes on top.
    `speed_up` is over eager PyTorch in the same session, None for eager itself; `compute_floor_s` the least time of a
    call by its work at the ceiling; `memory_bytes` the peak resident on the host, `device_memory_bytes` on the GPU.
    """

    run: str
    artifact: str
    backend: str
    threads: int
    batch_size: int
    verdict: str
    median_s: float | None = None
    images_per_s: float | None = None
    speed_up: float | None = None
    share_of_ceiling: float | None = None
    compute_floor_s: float | None = None
    memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    load_s: float | None = None
    first_call_s: float | None = None
    build_s: float | None = None
    calibration_s: float | None = None

    @property
    def series(self) -> tuple[str, str, str, int]:
        """What is the same along one curve over batch sizes."""
        return (self.run, self.artifact, self.backend, self.threads)


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """After how many images a build has saved the time that it took, and how many days of traffic that is."""

    images: float
    days: float | None


def cost_per_million(price_per_hour: float, images_per_s: float) -> float:
    """Return what a million images cost on a machine that is always busy: price / 3600 / images per second x 10^6.

    In the price's currency. A machine that waits half its time costs twice as much an image.
    """
    return 1e6 * price_per_hour / (_SECONDS_PER_HOUR * images_per_s)


def break_even(
    build_s: float, calibration_s: float, saved_s_per_image: float, images_per_day: float | None = None
) -> BreakEven | None:
    """Return images = (build + calibration) / seconds saved per image, and days = images / images per day.

    None where nothing is saved. Machine time against machine time, which is the same price on one machine; a person's
    time is not in it.
    """
    if saved_s_per_image <= 0:
        return None
    images = (build_s + calibration_s) / saved_s_per_image
    return BreakEven(images=images, days=images / images_per_day if images_per_day else None)


def knees(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Return of every series the point of smallest batch size that reaches 95 % of the series' best throughput.

    A series of one batch size has none.

    Beyond it a larger batch buys less than the 5 % by which neighbouring batch sizes differ anyway (padding, the
    blocks of a kernel, drift), and every image waits longer. A maximum would be no such point: throughput creeps up,
    or wavers, so that the largest batch size tried would be named most of the time.
    """
    sizes = Counter(series for series, _ in {(point.series, point.batch_size) for point in points})
    points = [point for point in points if sizes[point.series] > 1]
    best: dict[tuple[str, str, str, int], float] = {}
    for point in points:
        if point.images_per_s is not None:
            best[point.series] = max(point.images_per_s, best.get(point.series, 0.0))
    found: dict[tuple[str, str, str, int], SweepPoint] = {}
    for point in sorted(points, key=lambda each: each.batch_size):
        if point.images_per_s is not None and point.images_per_s >= KNEE_SHARE * best[point.series]:
            found.setdefault(point.series, point)
    return list(found.values())


def pareto_points(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Return the points of each run that no other point of it beats in latency and throughput.

    A point is beaten by one that is as good in both and better in one. The others are compromises: which is right
    depends on how long an image may wait. One through a queue has no latency: it is beaten by any of more throughput,
    and beats none that has one.
    """
    most: dict[str, float] = {}  # Of each run.
    fastest: dict[tuple[str, float], float] = {}  # Of each run and latency.
    for point in points:
        if point.images_per_s is not None:
            most[point.run] = max(point.images_per_s, most.get(point.run, 0.0))
            if point.median_s is not None:
                key = point.run, point.median_s
                fastest[key] = max(point.images_per_s, fastest.get(key, 0.0))
    unbeaten: set[tuple[str, float]] = set()
    so_far = dict.fromkeys(most, 0.0)
    for (run, median_s), images_per_s in sorted(fastest.items()):
        if images_per_s > so_far[run]:
            unbeaten.add((run, median_s))
            so_far[run] = images_per_s
    return [
        point
        for point in points
        if point.images_per_s is not None
        and (
            point.images_per_s == most[point.run]
            if point.median_s is None
            else (point.run, point.median_s) in unbeaten and point.images_per_s == fastest[point.run, point.median_s]
        )
    ]


def saved_s_per_image(point: SweepPoint) -> float | None:
    """Return the seconds that an image takes less than in PyTorch eager: (speed-up - 1) / images per second.

    The speed-up is paired within one session: two records may be of different hours, which differ by up to 14 %. None
    where it is not known. Negative where eager is faster.
    """
    if point.speed_up is None or point.images_per_s is None:
        return None
    return (point.speed_up - 1) / point.images_per_s


def break_even_of(point: SweepPoint, images_per_day: float | None = None) -> BreakEven | None:
    """Return the break-even of a point against eager, None where it saves nothing or its figures are not known."""
    saved_s = saved_s_per_image(point)
    if saved_s is None or point.build_s is None:
        return None
    return break_even(point.build_s, point.calibration_s or 0.0, saved_s, images_per_day)
