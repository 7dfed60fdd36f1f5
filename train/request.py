"""What a training is asked for, and the record that makes it a run: its identity, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.core.cases import Case, LabelMode, Loss
from harness.core.contract import Contract
from harness.core.errors import UsageError
from harness.core.files import sha256_from_file
from harness.core.machine import machine_description
from harness.core.runs import RunDirectory, RunIdentity, RunRecord
from harness.data.manifest import Manifest
from train.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What `harness train` was asked for, for one case. `weights` is imagenet, random or a path.

    `fold` is told only for the summary: `data_folder` is that fold's.
    """

    case: Case
    data_folder: Path
    runs_folder: Path
    name: str | None
    recipe: Recipe
    loss: Loss | None
    label_mode: LabelMode
    weights: str
    seed: int
    force: bool
    fold: int | None = None


def check_label_mode(case: Case, label_mode: LabelMode) -> None:
    """Raise UsageError where the case has no such form."""
    if label_mode == "multilabel" and case.dataset != 2:
        raise UsageError(
            f"{case.name} is of dataset-1, whose classes exclude each other.",
            hint="Only the dataset-2 cases have a multi-label form.",
        )


def new_record(request: TrainRequest, run: RunDirectory, manifest: Manifest) -> RunRecord:
    """Return the record of the run that a request asks for, before its first epoch."""
    loss = request.loss or request.case.loss
    weights = request.weights
    if weights not in {"imagenet", "random"}:
        path = Path(weights)
        weights = f"file {path.name} {sha256_from_file(path) if path.is_file() else 'missing'}"
    return RunRecord(
        name=run.name,
        identity=RunIdentity(
            case=request.case.name,
            data=manifest.fingerprint,
            recipe=request.recipe.model_dump(mode="json"),
            loss=loss,
            label_mode=request.label_mode,
            seed=request.seed,
            weights=weights,
        ),
        contract=Contract(
            case=request.case.name,
            class_names=request.case.class_names,
            label_mode=request.label_mode,
            preprocessing=request.recipe.preprocessing,
            synthetic=manifest.synthetic,
        ),
        manifest=str(manifest.path.resolve()),
        status="training",
        one_of_the_eight=loss == request.case.loss,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine_description(),
    )
