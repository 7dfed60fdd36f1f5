"""Several cases in a row: one that fails is a row of the table, never the end of the others."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from harness.core.cases import Case, LabelMode, Loss
from harness.core.errors import HarnessError, RunError, UsageError
from harness.core.metrics import SplitMetrics
from harness.core.progress import Progress
from harness.core.runs import check_run_name
from harness.data.manifest import fold_folder, folds_in
from train.dry_run import Plan, planned_run
from train.evaluation import evaluation_text
from train.precision import resolved_precision, training_device
from train.ranks import ONE_PROCESS, Ranks
from train.recipes import Precision, RecipeName, recipe_for_case
from train.request import TrainRequest
from train.run import TrainResult, train_run

_log = logging.getLogger(__name__)
TRAIN_COLUMNS = ["run", "status", "accuracy", "macro-F1", "study", "initial weights", "note"]


@dataclass(frozen=True, kw_only=True)
class TrainOutcome:
    """One case: its result, or the error that ended it. `fold` is the fold that was asked for, None without."""

    name: str
    case: str
    fold: int | None
    result: TrainResult | None
    error: HarnessError | None

    @property
    def text(self) -> str:
        """The per-class tables, ours beside the study's."""
        return evaluation_text(self.result.evaluation) if self.result else ""

    def row(self) -> list[str]:
        """Cells for the closing table: run, status, accuracy, macro-F1, the study's accuracy, weights, note."""
        if self.result is None:
            return [self.name, "FAILED", "", "", "", "", self.error.message[:60] if self.error else ""]
        evaluation, record = self.result.evaluation, self.result.record
        ours, published = evaluation.ours.get("test"), evaluation.published.get("test")
        return [
            self.name,
            "trained" if self.result.trained else "already complete",
            f"{100 * ours.accuracy:.2f} %" if ours else "no labels",
            f"{ours.macro_f1:.3f}" if ours else "",
            f"{100 * published.accuracy:.2f} %" if published else "unpublished",
            record.identity.weights,
            "synthetic phantoms" if record.contract.synthetic else "",
        ]

    def summary(self) -> dict[str, Any]:
        """The same for machines."""
        if self.result is None:
            return {"run": self.name, "error": self.error.message if self.error else "unknown"}
        return {
            "run": self.name,
            "folder": str(self.result.run.folder),
            "trained": self.result.trained,
            "evaluation": self.result.evaluation.model_dump(mode="json"),
        }


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What `harness train` was asked for, for all cases; `overrides` are fields of the recipe."""

    data_folder: Path
    runs_folder: Path
    name: str | None
    recipe: RecipeName
    loss: Loss | None
    label_mode: LabelMode
    weights: str
    seed: int
    precision: Precision | Literal["auto"]
    fold: str | None
    force: bool
    dry_run: bool
    overrides: Mapping[str, Any]


def options_from_command_line(options: dict[str, Any]) -> TrainOptions:
    """Sort the command line's options into those of the run and those that change its recipe."""
    own = {field.name for field in fields(TrainOptions)}
    overrides = {name: value for name, value in options.items() if name not in own}
    return TrainOptions(overrides=overrides, **{name: value for name, value in options.items() if name in own})


def planned(requests: list[TrainRequest]) -> list[Plan]:
    """Return what each request would be; raises what its training would raise before the first epoch."""
    return [planned_run(request) for request in requests]


def requests_for_cases(cases: list[Case], options: TrainOptions) -> list[TrainRequest]:
    """Return one request per case and fold; raise UsageError where several would share one name."""
    name = options.name
    folds = {case.name: _folds(options, case) for case in cases}
    if name is not None and (len(cases) > 1 or any(len(each) > 1 for each in folds.values())):
        raise UsageError("--name names one run, and several are asked for.", hint="Leave --name out.")
    if name is not None:
        check_run_name(name)
    rate = options.overrides.get("learning_rate")
    if rate is not None and not math.isfinite(rate):
        raise UsageError(f"--lr {rate} is no learning rate.", hint="Give a number such as 0.001.")
    precision = resolved_precision(options.precision, training_device())
    return [
        TrainRequest(
            case=case,
            data_folder=options.data_folder if fold is None else fold_folder(options.data_folder, case, fold),
            runs_folder=options.runs_folder,
            name=name or (case.name if fold is None else f"{case.name}-fold-{fold}"),
            recipe=recipe_for_case(options.recipe, case, precision=precision, **options.overrides),
            loss=options.loss,
            label_mode=options.label_mode,
            weights=options.weights,
            seed=options.seed,
            force=options.force,
            fold=fold,
        )
        for case in cases
        for fold in folds[case.name]
    ]


def _folds(options: TrainOptions, case: Case) -> list[int | None]:
    if options.fold is None:
        return [None]
    if options.fold == "all":
        return list(folds_in(options.data_folder, case)) or [1]  # Where there is none, fold 1 is missed in words.
    if not options.fold.isdecimal():
        raise UsageError(f"--fold {options.fold} is no fold.", hint="Give its number, or `all`.")
    return [int(options.fold)]


def train_many(requests: list[TrainRequest], progress: Progress, ranks: Ranks = ONE_PROCESS) -> list[TrainOutcome]:
    """Train each request in turn and return what became of every one; with several processes an error ends all."""
    outcomes = []
    for number, request in enumerate(requests, start=1):
        name = request.name or request.case.name
        progress.say(f"[{number}/{len(requests)}] {name}")
        result, error = None, None
        try:
            result = train_run(request, progress, ranks)
        except HarnessError as harness_error:
            if ranks.count > 1:  # The others may be in the middle of this case: going on would mix two trainings.
                raise
            error = harness_error
        except (RuntimeError, MemoryError) as unexpected:
            # Torch reports an exhausted memory as RuntimeError; the other cases may well fit.
            if len(requests) == 1 or ranks.count > 1:
                raise
            _log.exception("%s failed", name)
            error = RunError(f"{name}: {unexpected}", hint="See the traceback above; other runs are intact.")
        outcomes.append(TrainOutcome(name=name, case=request.case.name, fold=request.fold, result=result, error=error))
    return outcomes


def fold_lines(outcomes: list[TrainOutcome]) -> list[str]:
    """Return one line per case of which several folds are finished: test figures, mean and standard deviation."""
    by_case: dict[str, list[SplitMetrics]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.fold is not None and outcome.result and "test" in outcome.result.evaluation.ours:
            by_case[outcome.case].append(outcome.result.evaluation.ours["test"])
    lines = []
    for case, metrics in by_case.items():
        if len(metrics) < 2:
            continue
        figures = {
            "accuracy": [each.accuracy for each in metrics],
            "balanced accuracy": [each.balanced_accuracy for each in metrics],
            "macro-F1": [each.macro_f1 for each in metrics],
        }
        figures |= {f"recall of {name}": [each.classes[name].recall for each in metrics] for name in metrics[0].classes}
        words = (f"{name} {mean(values):.3f} (sd {stdev(values):.3f})" for name, values in figures.items())
        lines.append(f"{case}, {len(metrics)} folds: {', '.join(words)}")
    return lines
