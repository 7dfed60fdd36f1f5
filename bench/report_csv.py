"""report.csv: a row per trial, every figure unrounded, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from bench.results import TrialResult
from bench.time_statistics import Ratio
from bench.timings import TimingSummary
from harness.core.contract import Contract

_CSV_COLUMNS = (
    *("run", "variant", "backend", "precision", "batch_size", "threads", "status", "verdict", "step", "reason"),
    *("images", "agreement", "accuracy", "reference_accuracy", "max_abs_dp", "changed_answers", "mcnemar_p"),
    *("reference_macro_f1", "macro_f1", "reference_brier", "brier", "reference_ece", "ece", "kl", "other_images"),
    *("other_changed_answers", "calls", "processes", "rejected_rounds", "contended", "queued"),
    *("latency_s", "latency_low_s", "latency_high_s", "compute_s", "compute_low_s", "compute_high_s"),
    *("device_median_s", "p90_s", "p90_low_s", "p90_high_s", "p99_s", "p99_low_s", "p99_high_s", "largest_s"),
    *("images_per_s", "speed_up_over_eager", "speed_up_low", "speed_up_high", "drift", "largest_foreign_cores"),
    *("load_s", "first_call_s", "peak_memory_bytes", "device_memory_bytes"),
    *("artifact_size_bytes", "image_px", "synthetic"),
)


def csv_text(runs: Iterable[tuple[Contract, list[TrialResult]]]) -> str:
    """Return one row per trial of each run's contract and results."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for contract, results in runs:
        for result in results:
            summary, ratio = result.summary, result.speed_up
            row: dict[str, Any] = result.trial.model_dump() | {"status": result.status, "reason": result.reason}
            if result.verdict is not None:
                row |= {"verdict": result.verdict.word.value, **result.verdict.model_dump(exclude={"word"})}
            row |= result.parity.model_dump() if result.parity else {}
            row |= _time_columns(summary, ratio)
            row |= {"artifact_size_bytes": result.artifact_size_bytes, "synthetic": contract.synthetic}
            row |= {"image_px": contract.preprocessing.crop_px}
            writer.writerow(row)
    return text.getvalue()


def _time_columns(summary: TimingSummary | None, ratio: Ratio | None) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    if summary is not None:
        columns |= summary.model_dump(exclude={"latency", "compute", "p90", "p99"})
        for name in ("latency", "compute", "p90", "p99"):
            interval = getattr(summary, name)
            if interval is not None:
                columns |= {f"{name}_s": interval.value, f"{name}_low_s": interval.low, f"{name}_high_s": interval.high}
    if ratio is not None:
        columns |= {"speed_up_over_eager": ratio.estimate, "speed_up_low": ratio.low, "speed_up_high": ratio.high}
    return columns
