"""What a person reads of the comparisons, and the last line, which a program does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.peers.alternating import Rounds
from bench.time_statistics import Ratio

_UNITS: dict[str, float] = {"ms": 1e3, "images/s": 1.0}
# The required keys of the last line, each with the comparison that it reports.
KEYS = {
    "benchmark_app_latency": "benchmark_app latency, compute",
    "benchmark_app_fps": "benchmark_app throughput, without copies",
    "loadgen_p50": "LoadGen SingleStream p50",
}
_FURTHER_KEYS = {
    "benchmark_app_latency_filled_once": "benchmark_app latency, compute, filled once",
    "benchmark_app_latency_end_to_end": "benchmark_app latency, end to end",
    "benchmark_app_fps_with_copies": "benchmark_app throughput, with copies",
    "polygraphy_p50": "Polygraphy OnnxrtRunner",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One comparison: ours divided by theirs, of medians per call (s) or of images per second."""

    name: str
    unit: Literal["ms", "images/s"]
    ours: float
    theirs: float
    ratio: Ratio
    rounds: int
    rejected: int
    contended: bool
    boundaries: str

    @staticmethod
    def of_durations(name: str, found: Rounds, figure: str, *, boundaries: str) -> Line:
        return _line(name, "ms", found, figure, boundaries)

    @staticmethod
    def of_rates(name: str, found: Rounds, figure: str, *, boundaries: str) -> Line:
        return _line(name, "images/s", found, figure, boundaries)


def _line(name: str, unit: Literal["ms", "images/s"], found: Rounds, figure: str, boundaries: str) -> Line:
    return Line(
        name=name,
        unit=unit,
        ours=found.typical(figure),
        theirs=found.typical("theirs"),
        ratio=found.ratio(figure, "theirs"),
        rounds=len(found.figures),
        rejected=found.rejected,
        contended=found.contended,
        boundaries=boundaries,
    )


def interval_words(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return f"{ratio.estimate:.4f}"
    return f"{ratio.estimate:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]"


def table(lines: Sequence[Line]) -> str:
    """Return two lines of text per comparison: the figures, and what exactly was timed."""
    width = max((len(each.name) for each in lines), default=0)
    rows = []
    for each in lines:
        factor = _UNITS[each.unit]
        mark = ", CONTENDED" if each.contended else ""
        rows += [
            f"{each.name:{width}}  ours {each.ours * factor:8.3f}  theirs {each.theirs * factor:8.3f} {each.unit:8}  "
            f"ours/theirs {interval_words(each.ratio)}  {each.rounds} rounds, {each.rejected} rejected{mark}",
            f"{'':{width}}  {each.boundaries}",
        ]
    return "\n".join(rows)


def last_line(lines: Sequence[Line], counts: dict[str, int]) -> str:
    """Return the JSON: the required keys always, null where a peer is not installed; the others where measured."""
    ratios = {each.name: round(each.ratio.estimate, 4) for each in lines}
    required = {key: ratios.get(name) for key, name in KEYS.items()}
    further = {key: ratios[name] for key, name in _FURTHER_KEYS.items() if name in ratios}
    contended = {"contended": [each.name for each in lines if each.contended]}
    return json.dumps(required | counts | further | contended)
