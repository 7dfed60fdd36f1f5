"""Results as cells of text, for the terminal and report.md; only here do fractions become per cent and seconds ms."""

from __future__ import annotations

from bench.parity import Parity
from bench.results import Trial, TrialResult
from bench.time_tables import time_cells

BENCH_COLUMNS = [
    "run",
    "artifact",
    "backend",
    "batch",
    "threads",
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


def bench_rows(results: list[TrialResult]) -> list[list[str]]:
    """Return one row of BENCH_COLUMNS per result."""
    return [_row(result) for result in results]


def _row(result: TrialResult) -> list[str]:
    trial, parity = result.trial, result.parity
    verdict = result.verdict.word.value if result.verdict else result.status.upper()
    agreement = change = largest = ""
    if parity is not None:
        agreement = f"{100 * parity.agreement:.2f} %"
        largest = f"{parity.max_abs_dp:.1e}"
        if parity.accuracy is not None and parity.reference_accuracy is not None:
            change = f"{100 * (parity.accuracy - parity.reference_accuracy):+.2f} pp"
    size = f"{result.artifact_size_bytes / 1e6:.0f}" if result.artifact_size_bytes else ""
    identity = [trial.run, trial.variant, trial.backend, str(trial.batch_size), str(trial.threads), verdict]
    return [*identity, agreement, change, largest, *time_cells(result), size]


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
