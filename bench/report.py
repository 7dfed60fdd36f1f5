"""The report: everything measured so far, recomputed from the stored records, in a form to read and two to parse.

report.md is for people, report.csv has one row per trial, report.json holds the same with every figure unrounded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from bench.backends import REFERENCE_BACKEND
from bench.builds import BUILD_COLUMNS, BUILDS_READING, build_rows, build_spreads
from bench.flips import Flip
from bench.loads import Loads, load_lines, loads_json, loads_of_results
from bench.pytest_benchmark_json import write_pytest_benchmark_json
from bench.report_csv import csv_text
from bench.report_records import results_for_report
from bench.report_time import NO_ECONOMICS, Economics, Speed, speed_of_run, time_json, time_lines
from bench.results import TrialResult
from bench.tables import (
    BENCH_COLUMNS,
    CLASS_COLUMNS,
    OPERATING_COLUMNS,
    PARITY_COLUMNS,
    bench_rows,
    class_rows,
    markdown_table,
    operating_rows,
    parity_rows,
)
from bench.time_tables import Session, sessions_of
from harness.core.errors import ArtifactError, HarnessError
from harness.core.files import write_text_atomically
from harness.core.runs import RunDirectory, RunRecord

_READING = """\
How to read this: **PASS** means ship, **FAIL** do not ship (and is not timed), **INCONCLUSIVE** and **NO VERDICT** not
enough evidence. Agreement, accuracy change and max |dp| compare with eager PyTorch in float32 on the images that judge:
the test split, and validation where a line says so.
Latency is end to end (input copied in, computed, answer copied out) in a closed loop: service time only, no queueing.
Behind it stands the 95 % interval over the processes that were measured, not over calls. A percentile is given only
where its sample has a finite 95 % order-statistic interval. `x eager` is PyTorch eager's time divided by this trial's,
from rounds in which both had their turn, with the 95 % t-interval over sets of processes; the sign interval beside it
assumes no distribution. The A/A line is one model measured against itself: no smaller difference means anything."""


@dataclass(frozen=True, kw_only=True)
class _RunReport:
    """One run's records."""

    run: RunDirectory
    record: RunRecord
    evaluation: dict[str, Any]
    results: list[TrialResult]
    flips: list[Flip]
    speed: Speed
    loads: Loads


def write_report(
    runs_folder: Path,
    runs: list[RunDirectory],
    pytest_benchmark: Path | None = None,
    economics: Economics = NO_ECONOMICS,
) -> list[Path]:
    """Write report.md, report.json and report.csv into RUNS/report and return their paths.

    Where `pytest_benchmark` names a file, the times go there too, in that tool's own form.
    """
    reports, problems = [], []
    for run in runs:
        try:
            evaluation = _evaluation(run)
            found = results_for_report(run, keep_calls=pytest_benchmark is not None)
            current = _in_order(found.results)
            problems += [f"{run.name}: {each}" for each in found.problems]
            try:
                loads = loads_of_results(run, current)
            except ArtifactError as error:  # One file less, not one run.
                problems.append(f"{run.name}: {error.message}")
                loads = Loads(scenarios=[], gaps=[])
            reports.append(
                _RunReport(
                    run=run,
                    record=run.read_record(),
                    evaluation=evaluation,
                    results=current,
                    flips=found.flips,
                    speed=speed_of_run(runs_folder, run, current),
                    loads=loads,
                )
            )
        except HarnessError as error:
            problems.append(f"{run.name}: {error.message}")
    folder = runs_folder / "report"
    texts = {
        "report.md": _markdown(reports, problems, economics),
        "report.json": to_json(_json(reports, problems, economics), indent=1).decode() + "\n",
        "report.csv": csv_text((report.record.contract, report.results) for report in reports),
    }
    for name, text in texts.items():
        write_text_atomically(folder / name, text)
    paths = [folder / name for name in texts]
    if pytest_benchmark is not None:
        write_pytest_benchmark_json(pytest_benchmark, [result for each in reports for result in each.results])
        paths.append(pytest_benchmark)
    return paths


def _evaluation(run: RunDirectory) -> dict[str, Any]:
    """Return evaluation.json, empty while the run is training; raise ArtifactError where it is damaged."""
    if not run.evaluation.is_file():
        return {}
    try:
        content = json.loads(run.evaluation.read_text(encoding="utf-8"))
    except ValueError as error:  # No UTF-8 and no JSON are both ValueErrors.
        raise ArtifactError(f"{run.evaluation} is not readable: {error}", hint="Train the run again.") from error
    return content if isinstance(content, dict) else {}


def _in_order(results: list[TrialResult]) -> list[TrialResult]:
    def order(result: TrialResult) -> tuple[int, int, bool, str]:
        trial = result.trial
        return trial.threads, trial.batch_size, trial.backend != REFERENCE_BACKEND, trial.identifier

    return sorted(results, key=order)


def _markdown(reports: list[_RunReport], problems: list[str], economics: Economics) -> str:
    lines = [
        "# CXR Harness report",
        "",
        f"Written {datetime.now(UTC).isoformat(timespec='seconds')}. Not for clinical use.",
    ]
    if any(report.record.contract.synthetic for report in reports):
        lines += ["", "> **Made from synthetic phantoms.** Accuracies and verdicts here say nothing about films."]
    lines += ["", *(f"> Problem: {problem}" for problem in problems)]
    lines += ["", "## Accuracy: this project's runs beside the study", "", *_accuracy_lines(reports)]
    for report in reports:
        lines += _class_lines(report)
    lines += ["", "## Parity and speed", "", _READING, ""]
    for report in reports:
        lines += _run_lines(report, economics)
    lines += ["## Machine", "", *_machine_lines(reports)]
    return "\n".join(lines) + "\n"


def _accuracy_lines(reports: list[_RunReport]) -> list[str]:
    rows = []
    for report in reports:
        identity = report.record.identity
        for split in ("train", "validation", "test"):
            ours = report.evaluation.get("ours", {}).get(split)
            study = report.evaluation.get("published", {}).get(split)
            if ours is None and study is None:
                continue
            whose = [report.run.name, identity.case, f"{identity.loss}, {identity.label_mode}", identity.weights, split]
            rows.append([*whose, *_metric_cells(ours), *_metric_cells(study)])
    columns = ["run", "case", "loss", "initial weights", "split", "n", "accuracy", "balanced", "macro-F1"]
    lines = markdown_table([*columns, "study n", "study accuracy", "study balanced", "study macro-F1"], rows)
    notes = {note: None for report in reports for note in report.evaluation.get("caveats", [])}
    not_of_the_eight = [report.run.name for report in reports if not report.record.one_of_the_eight]
    if not_of_the_eight:
        notes[f"Not one of the study's eight cases: {', '.join(not_of_the_eight)}."] = None
    return [*lines, "", *(f"- {note}" for note in notes)]


def _class_lines(report: _RunReport) -> list[str]:
    """Return per-class figures and confusion matrices on the test split, ours and the study's (else validation)."""
    lines = []
    for whose, metrics_by_split in (("this run", "ours"), ("study", "published")):
        by_split = report.evaluation.get(metrics_by_split, {})
        split = "test" if "test" in by_split else "validation"
        if split not in by_split:
            continue
        names = list(by_split[split]["classes"])
        rows = [
            [
                name,
                *(f"{values[figure]:.2f}" for figure in ("precision", "recall", "f1")),
                str(values["support"]),
                *(str(count) for count in counts),
            ]
            for (name, values), counts in zip(
                by_split[split]["classes"].items(), by_split[split]["confusion"], strict=True
            )
        ]
        columns = ["actual class", "precision", "recall", "f1-score", "support", *(f"answered {n}" for n in names)]
        lines += ["", f"{report.run.name}, {split}, {whose}:", "", *markdown_table(columns, rows)]
    return lines


def _metric_cells(metrics: dict[str, Any] | None) -> list[str]:
    if metrics is None:
        return ["", "none", "", ""]
    shares = [f"{100 * metrics[name]:.2f} %" for name in ("accuracy", "balanced_accuracy")]
    return [str(metrics["images"]), *shares, f"{metrics['macro_f1']:.3f}"]


def _run_lines(report: _RunReport, economics: Economics) -> list[str]:
    contract = report.record.contract
    side_px = contract.preprocessing.crop_px
    kind = ", synthetic phantoms" if contract.synthetic else ""
    lines = [f"### {report.run.name} ({side_px} px{kind})", ""]
    if not report.results:
        return [*lines, "Nothing measured yet: `harness export` and `harness bench`.", ""]
    if any(result.timing is not None and result.quick for result in report.results):
        lines += ["Timed with `--quick`: one process each and few calls, for orientation only.", ""]
    rows = [row[1:] for row in bench_rows(report.results)]
    lines += [*markdown_table(BENCH_COLUMNS[1:], rows), ""]
    lines += time_lines(report.results, report.speed, economics)
    lines += load_lines(report.loads)
    lines += _detail_lines(report)
    for result in report.results:
        if result.verdict is not None:
            margin = f"margin {100 * result.margin:g} pp, judged on {' and '.join(result.judged_splits)}"
            word, step = result.verdict.word.value, result.verdict.step
            lines.append(f"- {result.trial.identifier}: **{word}** ({step}; {margin}): {result.verdict.reason}.")
        else:
            lines.append(f"- {result.trial.identifier}: {result.status}: {result.reason}.")
    spreads = build_spreads(report.run, contract.label_mode, report.results)
    if spreads:
        rows = [row[1:] for row in build_rows(spreads)]
        lines += ["", BUILDS_READING, "", *markdown_table(BUILD_COLUMNS[1:], rows)]
    return [*lines, ""]


def _detail_lines(report: _RunReport) -> list[str]:
    """Return the tables of parity and operating point, what training images say, and the flips."""
    lines = []
    for title, columns, rows in (
        ("Parity, checkpoint > candidate:", PARITY_COLUMNS, parity_rows(report.results)),
        (
            "Some finding against normal, at the threshold fixed on validation:",
            OPERATING_COLUMNS,
            operating_rows(report.results),
        ),
        ("Changed answers by class:", CLASS_COLUMNS, class_rows(report.results)),
    ):
        if rows:
            lines += [title, "", *markdown_table(columns, rows), ""]
    for result in report.results:
        parity = result.parity
        if parity is not None and parity.other_images:
            lines.append(
                f"- {result.trial.identifier}: of {parity.other_images} images beyond "
                f"{' and '.join(result.judged_splits)} {parity.other_changed_answers} changed; the model was fitted to "
                "most of them, which flatters it."
            )
        refused = result.refused_batches.items()
        lines += [f"- {result.trial.identifier}: a batch of {size} was refused: {why}" for size, why in refused]
    if report.flips:
        lines += ["", "Images whose answer changed (`bench/flips.csv` has all their probabilities):", ""]
        lines += markdown_table(_FLIP_COLUMNS, [_flip_row(report, flip) for flip in report.flips[:_MOST_FLIPS]])
        if len(report.flips) > _MOST_FLIPS:
            lines += ["", f"{len(report.flips) - _MOST_FLIPS} more in `{report.run.name}/bench/flips.csv`."]
    return [*lines, ""]


_FLIP_COLUMNS = ["image", "file", "trial", "class", "checkpoint", "candidate", "direction", "margin"]
_MOST_FLIPS = 20


def _flip_row(report: _RunReport, flip: Flip) -> list[str]:
    picture = f"![{flip.row}](../{report.run.name}/bench/flips/{flip.row}.png)"
    was, now = max(flip.reference_probabilities), max(flip.probabilities)
    return [
        picture,
        flip.path,
        flip.trial,
        flip.label or "none",
        f"{flip.reference_answer} {was:.3f}",
        f"{flip.answer} {now:.3f}",
        flip.direction,
        f"{flip.margin:.4f}",
    ]


def _machine_lines(reports: list[_RunReport]) -> list[str]:
    machines = {json.dumps(result.machine, sort_keys=True) for report in reports for result in report.results}
    return [f"- `{machine}`" for machine in sorted(machines)] or ["Nothing measured yet."]


def _json(reports: list[_RunReport], problems: list[str], economics: Economics) -> dict[str, Any]:
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "problems": problems,
        "runs": [
            {
                "run": report.run.name,
                "record": report.record.model_dump(mode="json"),
                "evaluation": report.evaluation,
                "flips": [flip.model_dump() for flip in report.flips],
                "trials": _trials_json(report.results),
                **time_json(report.speed, economics),
                **loads_json(report.loads),
                "builds": [
                    spread.model_dump(mode="json")
                    for spread in build_spreads(report.run, report.record.contract.label_mode, report.results)
                ],
            }
            for report in reports
        ],
    }


def _trials_json(results: list[TrialResult]) -> list[dict[str, Any]]:
    sessions = sessions_of(results)
    return [_trial_json(sessions, result) for result in results]


def _trial_json(sessions: dict[str, Session], result: TrialResult) -> dict[str, Any]:
    summary, ratio = result.summary, result.speed_up
    noise = sessions[result.timing.session].noise if result.timing else None
    return result.model_dump(mode="json", exclude={"timing", "twin"}) | {
        "summary": summary.model_dump() if summary else None,
        "speed_up_over_eager": ratio.model_dump() if ratio else None,
        "noise": noise.model_dump() if noise else None,
        "session": result.timing.session if result.timing else None,
    }
