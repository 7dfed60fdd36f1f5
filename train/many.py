"""Several cases in a row: one that fails is a row of the table, never the end of the others."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.cases import Case, LabelMode, Loss
from harness.core.errors import HarnessError, RunError, UsageError
from harness.core.progress import Progress
from train.evaluation import evaluation_text
from train.recipes import recipe_for_case
from train.run import TrainRequest, TrainResult, train_run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainOutcome:
    """One case: its result, or the error that ended it."""

    name: str
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


def requests_for_cases(
    cases: list[Case],
    *,
    data_folder: Path,
    runs_folder: Path,
    name: str | None,
    recipe: str,
    loss: Loss | None,
    label_mode: LabelMode,
    weights: str,
    seed: int,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    force: bool,
) -> list[TrainRequest]:
    """Return one request per case; raise UsageError where several cases would share one name."""
    if name is not None and len(cases) > 1:
        raise UsageError("--name names one run, and several cases are asked for.", hint="Leave --name out.")
    if name is not None and (Path(name).name != name or name in {".", ".."}):
        raise UsageError(f"--name {name} is not a plain folder name.", hint="Use letters, digits and dashes.")
    return [
        TrainRequest(
            case=case,
            data_folder=data_folder,
            runs_folder=runs_folder,
            name=name,
            recipe=recipe_for_case(recipe, case, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size),
            loss=loss,
            label_mode=label_mode,
            weights=weights,
            seed=seed,
            force=force,
        )
        for case in cases
    ]


def train_many(requests: list[TrainRequest], progress: Progress) -> list[TrainOutcome]:
    """Train each request in turn and return what became of every one."""
    outcomes = []
    for number, request in enumerate(requests, start=1):
        name = request.name or request.case.name
        progress.say(f"[{number}/{len(requests)}] {name}")
        result, error = None, None
        try:
            result = train_run(request, progress)
        except HarnessError as harness_error:
            error = harness_error
        except (RuntimeError, MemoryError) as unexpected:
            # Torch reports an exhausted memory as RuntimeError; the other cases may well fit.
            if len(requests) == 1:
                raise
            _log.exception("%s failed", name)
            error = RunError(f"{name}: {unexpected}", hint="See the traceback above; other runs are intact.")
        outcomes.append(TrainOutcome(name=name, result=result, error=error))
    return outcomes
