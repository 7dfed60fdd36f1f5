"""Results as cells of text, for the terminal and report.md; only here do fractions become per cent and seconds ms."""

from __future__ import annotations

from bench.backends import REFERENCE_BACKEND
from bench.parity import Parity
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

PARITY_COLUMNS = [
    "trial",
    "changed (lost, gained)",
    "accuracy, checkpoint",
    "accuracy",
    "loss (90 %)",
    "McNemar p",
    "macro-F1",
    "worst recall change",
    "Brier",
    "ECE",
    "KL",
    "mean |dp|",
    "other rows and batches",
]
CLASS_COLUMNS = ["trial", "class", "images", "lost", "gained", "recall", "recall loss (90 %)"]
OPERATING_COLUMNS = ["trial", "threshold", "changed sides", "sensitivity", "specificity", "AUROC", "AUROC loss (90 %)"]


def eager_of(results: list[TrialResult], trial: Trial) -> TrialResult | None:
    """Return the trial of eager PyTorch on the CPU that was timed together with a trial; a GPU's is no reference."""
    for result in results:
        other = result.trial
        same = (other.run, other.batch_size, other.threads) == (trial.run, trial.batch_size, trial.threads)
        if other.backend == REFERENCE_BACKEND and same and result.timing is not None:
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


def parity_rows(results: list[TrialResult]) -> list[list[str]]:
    """Return one row of PARITY_COLUMNS per result that has figures; "a > b" is checkpoint and candidate."""
    return [_parity_row(result.trial, result.parity) for result in results if result.parity is not None]


def _parity_row(trial: Trial, parity: Parity) -> list[str]:
    changed = str(parity.changed_answers)
    moved = max(parity.repeats_max_abs_dp.values(), default=None)
    closing = [f"{parity.kl:.1e}", f"{parity.mean_abs_dp:.1e}", "" if moved is None else f"{moved:.1e}"]
    if parity.table is None or parity.loss_interval_90 is None:
        return [trial.identifier, changed, "no labels", *[""] * 7, *closing]
    worst = min(parity.classes, key=lambda each: each.recall - each.reference_recall)
    return [
        trial.identifier,
        f"{changed} ({parity.table[1]}, {parity.table[2]})",
        _accuracy_text(parity.reference_accuracy, parity.reference_accuracy_interval_95),
        _accuracy_text(parity.accuracy, parity.accuracy_interval_95),
        f"{_points(parity.loss_interval_90)} pp",
        f"{parity.mcnemar_p:.3g}",
        f"{parity.reference_macro_f1:.3f} > {parity.macro_f1:.3f}",
        f"{worst.name} {100 * (worst.recall - worst.reference_recall):+.1f} pp",
        f"{parity.reference_brier:.3f} > {parity.brier:.3f}",
        f"{parity.reference_ece:.3f} > {parity.ece:.3f}",
        *closing,
    ]


def class_rows(results: list[TrialResult]) -> list[list[str]]:
    """Return one row of CLASS_COLUMNS for every labelled class of each result in which an answer changed."""
    return [
        [
            result.trial.identifier,
            each.name,
            str(each.images),
            str(each.lost),
            str(each.gained),
            f"{100 * each.reference_recall:.1f} > {100 * each.recall:.1f} %",
            f"{_points(each.recall_loss_interval_90)} pp",
        ]
        for result in results
        if result.parity is not None and result.parity.changed_answers
        for each in result.parity.classes
    ]


def _accuracy_text(share: float | None, interval: tuple[float, float] | None) -> str:
    if share is None or interval is None:
        return ""
    return f"{100 * share:.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _points(interval: tuple[float, float]) -> str:
    return f"[{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]"


def operating_rows(results: list[TrialResult]) -> list[list[str]]:
    """Return one row of OPERATING_COLUMNS per result with labels; "a > b" is checkpoint and candidate."""
    rows = []
    for result in results:
        point = result.parity.operating if result.parity else None
        if point is None:
            continue
        cells = ["none fixed", "", "", ""]
        if point.threshold is not None and point.sensitivity is not None and point.specificity is not None:
            cells = [
                f"{point.threshold:.4g}",
                f"{point.changed_at_threshold} of {point.findings + point.normals}",
                f"{100 * point.sensitivity.reference:.1f} > {100 * point.sensitivity.candidate:.1f} %",
                f"{100 * point.specificity.reference:.1f} > {100 * point.specificity.candidate:.1f} %",
            ]
        area = f"{point.auroc.reference:.4f} > {point.auroc.candidate:.4f}"
        low, high = point.auroc.loss_interval_90
        rows.append([result.trial.identifier, *cells, area, f"[{low:+.4f}, {high:+.4f}]"])
    return rows


def markdown_table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table; no cell can break it."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"

    return [line(columns), f"|{'---|' * len(columns)}", *map(line, rows)]
