"""Times as cells of text: the columns of speed, the table of timings, and what a model differs from itself by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.gate import Word
from bench.results import TrialResult
from bench.statistics import sample_for_percentile
from bench.time_statistics import Interval, Ratio, word_for_ratio
from bench.timings import (
    TimingSummary,
    duration_ratio,
    typical_call_s,
)

TIMING_COLUMNS = [
    "trial",
    "compute ms",
    "end to end ms",
    "device ms",
    "p90 ms",
    "p99 ms",
    "largest ms",
    "calls",
    "x eager, sign interval",
    "beside the fastest PASS",
    "rejected rounds",
    "others' cores",
    "drift",
    "first call ms",
    "load s",
    "memory MB",
    "mJ per image",
]


@dataclass(frozen=True, kw_only=True)
class Session:
    """The trials that took turns, their fastest PASS, and what one of them differs from itself by."""

    members: tuple[TrialResult, ...]
    fastest: TrialResult | None
    noise: Ratio | None

    @property
    def contended(self) -> bool:
        return any(each.timing.contended for each in self.members if each.timing is not None)


def sessions_of(results: Iterable[TrialResult]) -> dict[str, Session]:
    """Return every session among the results, by its name."""
    members: dict[str, list[TrialResult]] = {}
    for result in results:
        if result.timing is not None:
            members.setdefault(result.timing.session, []).append(result)
    return {name: _session(each) for name, each in members.items()}


def _session(members: list[TrialResult]) -> Session:
    passed = [
        (typical_call_s(each.timing), index)
        for index, each in enumerate(members)
        # What goes through a queue has a throughput: beside it every single call would look slow.
        if each.timing is not None
        and not each.timing.queued
        and each.verdict is not None
        and each.verdict.word is Word.PASS
    ]
    noise = None
    for each in members:
        if each.timing is not None and each.twin is not None:
            noise = duration_ratio(each.twin, each.timing)
    return Session(members=tuple(members), fastest=members[min(passed)[1]] if passed else None, noise=noise)


def time_cells(result: TrialResult) -> list[str]:
    """Return median, p90, p99, images per second and speed-up, for the table of all trials."""
    summary = result.summary
    if summary is None:
        why = result.reason or ("not timed" if result.verdict else "")
        return [" ".join(why.split())[:40], "", "", "", ""]
    mark = " contended" if summary.contended else ""
    ratio = result.speed_up
    sped = f"{interval_text(ratio.estimate, ratio.low, ratio.high, '.2f')}{mark}" if ratio else ""
    if summary.queued:
        return [f"in a queue{mark}", "", "", f"{summary.images_per_s:.1f}", sped]
    assert summary.latency is not None, "whatever is not queued has latencies"
    return [
        f"{milliseconds(summary.latency)}{mark}",
        percentile_text(summary.p90, 0.90, summary.calls, ends=False),
        percentile_text(summary.p99, 0.99, summary.calls, ends=False),
        f"{summary.images_per_s:.1f}",
        sped,
    ]


def interval_text(value: float, low: float | None, high: float | None, form: str) -> str:
    """Return a value with its interval, without one where there is none."""
    if low is None or high is None:
        return f"{value:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def milliseconds(interval: Interval) -> str:
    """Return an interval of seconds in ms."""
    low, high = (None if end is None else 1e3 * end for end in (interval.low, interval.high))
    return interval_text(1e3 * interval.value, low, high, ".2f")


def percentile_text(value: Interval | None, fraction: float, calls: int, *, ends: bool = True) -> str:
    """Return a percentile in ms, or how many calls it would take to state it."""
    if value is None:
        return f"n/a (n={calls}, need {sample_for_percentile(fraction)})"
    return milliseconds(value) if ends else f"{1e3 * value.value:.2f}"


def timing_rows(results: Sequence[TrialResult]) -> list[list[str]]:
    """Return one row of TIMING_COLUMNS per timed result of a run."""
    sessions = sessions_of(results)
    return [
        [result.trial.identifier, *_timing_cells(sessions[result.timing.session], result, result.summary)]
        for result in results
        if result.timing is not None and result.summary is not None
    ]


def _timing_cells(session: Session, result: TrialResult, summary: TimingSummary) -> list[str]:
    queue = ["in a queue"] * 2 if summary.queued else []
    boundaries = queue or [milliseconds(each) if each else "" for each in (summary.compute, summary.latency)]
    tails = [
        "" if summary.queued else percentile_text(value, fraction, summary.calls)
        for value, fraction in ((summary.p90, 0.90), (summary.p99, 0.99))
    ]
    ratio = result.speed_up
    sign = "" if ratio is None or ratio.sign_low is None else f"[{ratio.sign_low:.2f}, {ratio.sign_high:.2f}]"
    foreign, largest = summary.largest_foreign_cores, summary.largest_s
    memory = [each for each in (summary.peak_memory_bytes, summary.device_memory_bytes) if each is not None]
    return [
        *boundaries,
        "" if summary.device_median_s is None else f"{1e3 * summary.device_median_s:.2f}",
        *tails,
        "" if largest is None else f"{1e3 * largest:.2f}",
        f"{summary.calls} in {summary.processes}{_missing(result)} processes",
        sign,
        _beside_fastest(session, result),
        f"{summary.rejected_rounds}{' contended' if summary.contended else ''}",
        "n/a" if foreign is None else f"{foreign:.2f}",
        "" if summary.drift is None else f"{100 * (summary.drift - 1):+.1f} %",
        f"{1e3 * summary.first_call_s:.1f}",
        f"{summary.load_s:.2f}",
        " + device ".join(f"{each / 1e6:.0f}" for each in memory),
        "" if summary.energy_j_per_image is None else f"{1e3 * summary.energy_j_per_image:.3g}",
    ]


def _missing(result: TrialResult) -> str:
    """Return how many processes there were to be, where an interruption left fewer."""
    timing = result.timing
    return "" if timing is None or timing.complete else f" of {timing.planned_instances}"


def _beside_fastest(session: Session, result: TrialResult) -> str:
    """Return what may be said of a trial against the fastest PASS of its session."""
    fastest = session.fastest
    if fastest is None or fastest.timing is None or result.timing is None or result.timing.queued:
        return ""
    if fastest is result:
        return "the fastest"
    ratio = duration_ratio(result.timing, fastest.timing)
    if ratio is None:
        return ""
    word = "contended" if session.contended else word_for_ratio(ratio, session.noise)
    return f"{word} {interval_text(ratio.estimate, ratio.low, ratio.high, '.3f')}"


def noise_lines(results: Sequence[TrialResult]) -> list[str]:
    """Return one line per session: the model that was measured against itself, and what that says."""
    lines = []
    for result in results:
        if result.timing is None or result.twin is None:
            continue
        noise = duration_ratio(result.twin, result.timing)
        if noise is None:
            continue
        trial, count = result.trial, f"{len(noise.pairs)} pair{'s' * (len(noise.pairs) > 1)}"
        kind = {"quick": ", --quick: no interval from one process", "strict": ", --strict"}.get(result.timing.mode, "")
        sign = "" if noise.sign_low is None else f", sign interval [{noise.sign_low:.3f}, {noise.sign_high:.3f}]"
        lines.append(
            f"A/A, batch {trial.batch_size}, {trial.threads} threads ({count} of processes{kind}): "
            f"{trial.identifier} against itself {interval_text(noise.estimate, noise.low, noise.high, '.3f')}{sign}"
            f"{', contended' if result.timing.contended else ''}. That is the noise: a difference below "
            f"{100 * max(0.01, abs(noise.estimate - 1)):.1f} % is none."
        )
    return lines


def power_lines(results: Iterable[TrialResult]) -> list[str]:
    """Return what the machine did not tell of power and clocks, each once, and which rounds a GPU was throttled in."""
    lines: dict[str, None] = {}
    for result in results:
        for one in result.timing.instances if result.timing is not None else ():
            lines |= dict.fromkeys(f"Power: {note}" for note in one.power_notes)
            for each in one.rounds:
                if each.power is not None and each.power.gpu is not None and each.power.gpu.throttled_samples:
                    reasons = ", ".join(each.power.gpu.throttled_samples)
                    lines[f"{result.trial.identifier}: a round was rejected, for the GPU was slowed by {reasons}"] = (
                        None
                    )
    return list(lines)
