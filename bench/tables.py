"""Results as cells of text, for the terminal and report.md; only here do fractions become per cent and seconds ms."""

from __future__ import annotations

from bench.results import SpeedUp, TimingSummary, Trial, TrialResult, speed_up, timing_summary
from bench.statistics import sample_for_percentile

BENCH_COLUMNS = [
    "run",
    "artifact",
    "backend",
    "batch",
    "verdict",
    "agreement",
    "accuracy change",
    "max |dp|",
    "median ms",
    "p90 ms",
    "p99 ms",
    "images/s",
    "x eager",
    "MB",
]


def eager_of(results: list[TrialResult], trial: Trial) -> TrialResult | None:
    """Return the eager PyTorch trial that was timed together with a trial."""
    for result in results:
        other = result.trial
        same = (other.run, other.batch_size, other.threads) == (trial.run, trial.batch_size, trial.threads)
        if other.variant == "eager" and same and result.timing is not None:
            return result
    return None


def summary_of(result: TrialResult) -> TimingSummary | None:
    """Return the timing figures of a result, None where it was not timed."""
    return timing_summary(result.timing, result.trial.batch_size) if result.timing else None


def speed_up_of(results: list[TrialResult], result: TrialResult) -> SpeedUp | None:
    """Return the speed-up over eager PyTorch, None where one of the two was not timed in the same session."""
    eager = eager_of(results, result.trial)
    if eager is None or eager.timing is None or result.timing is None or eager.created != result.created:
        return None
    return speed_up(eager.timing, result.timing)


def bench_rows(results: list[TrialResult]) -> list[list[str]]:
    """Return one row of BENCH_COLUMNS per result."""
    return [_row(results, result) for result in results]


def _row(results: list[TrialResult], result: TrialResult) -> list[str]:
    trial, parity, summary = result.trial, result.parity, summary_of(result)
    verdict = result.verdict.word.value if result.verdict else result.status.upper()
    agreement = change = largest = ""
    if parity is not None:
        agreement = f"{100 * parity.agreement:.2f} %"
        largest = f"{parity.max_abs_dp:.1e}"
        if parity.accuracy is not None and parity.reference_accuracy is not None:
            change = f"{100 * (parity.accuracy - parity.reference_accuracy):+.2f} pp"
    size = f"{result.artifact_size_bytes / 1e6:.0f}" if result.artifact_size_bytes else ""
    identity = [trial.run, trial.variant, trial.backend, str(trial.batch_size), verdict]
    return [*identity, agreement, change, largest, *_time_cells(results, result, summary), size]


def _time_cells(results: list[TrialResult], result: TrialResult, summary: TimingSummary | None) -> list[str]:
    if summary is None or result.timing is None:
        why = result.reason or ("not timed" if result.verdict else "")
        return [" ".join(why.split())[:40], "", "", "", ""]
    ratio = speed_up_of(results, result)
    mark = " contended" if result.timing.contended else ""
    return [
        f"{1e3 * summary.median_s:.2f}{mark}",
        percentile_text(summary.p90_s, 0.90, summary.calls),
        percentile_text(summary.p99_s, 0.99, summary.calls),
        f"{summary.images_per_s:.1f}",
        f"{ratio.median:.2f} [{ratio.lowest:.2f}, {ratio.highest:.2f}]{mark}" if ratio else "",
    ]


def percentile_text(value_s: float | None, fraction: float, calls: int) -> str:
    """Return a percentile in ms, or how many calls it would take to state it."""
    if value_s is None:
        return f"n/a (n={calls}, need {sample_for_percentile(fraction)})"
    return f"{1e3 * value_s:.2f}"
