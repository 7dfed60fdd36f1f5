"""A state dict from elsewhere becomes a finished run, so that export, bench and report work on it as on any other.

Nothing is trained: the file's tensors become the checkpoint, which then answers its evaluation set like a trained one.
What trained them is unknown, so the run's identity holds the file's hash in place of a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.artifacts import Kind, write_artifact
from harness.core.cases import Case, LabelMode
from harness.core.contract import Contract
from harness.core.errors import DataError, UsageError
from harness.core.files import sha256_from_file
from harness.core.lock import run_lock
from harness.core.machine import machine_description
from harness.core.models import state_for_case
from harness.core.progress import Progress
from harness.core.runs import IMPORTED_RECIPE, RunDirectory, RunIdentity, RunRecord, check_run_name
from harness.core.tensors import save_tensors
from harness.data.evaluation_set import ensured_evaluation_set
from harness.data.manifest import Manifest, manifest_for_case
from train.directory import checked_evaluation, completed_run, empty_run, existing_record
from train.evaluation import Evaluation, evaluation_text
from train.recipes import RECIPES
from train.request import check_label_mode

if TYPE_CHECKING:
    from torch import Tensor

# The study's images; a file does not say for which it was trained.
_PREPROCESSING = RECIPES["published"].preprocessing
_NO_EPOCH = 0


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What `harness import` was asked for."""

    case: Case
    path: Path
    data_folder: Path
    runs_folder: Path
    name: str | None
    label_mode: LabelMode
    force: bool


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """A finished run; `imported` is false where it was there before."""

    run: RunDirectory
    record: RunRecord
    evaluation: Evaluation
    imported: bool

    def lines(self) -> list[str]:
        """What a person should read: per-class tables, and what became of the file."""
        status = "imported" if self.imported else "already imported"
        return [evaluation_text(self.evaluation), f"{self.run.name}: {status} ({self.record.identity.weights})."]

    def summary(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "run": self.run.name,
            "folder": str(self.run.folder),
            "imported": self.imported,
            "weights": self.record.identity.weights,
            "evaluation": self.evaluation.model_dump(mode="json"),
        }


def import_run(request: ImportRequest, progress: Progress) -> ImportResult:
    """Make a finished run of a file, or leave it alone where it was made before.

    Raises RunError where the directory holds another experiment, DataError for unusable data or for a file that does
    not fit the case, UsageError for a request that contradicts itself.
    """
    check_label_mode(request.case, request.label_mode)
    name = request.name or request.case.name
    check_run_name(name)
    if not request.path.is_file():
        raise DataError(f"There is no weights file {request.path}.", hint="Give a .pth, .pt or .safetensors file.")
    run = RunDirectory(request.runs_folder / name)
    if request.force and request.path.resolve().is_relative_to(run.folder.resolve()):
        raise UsageError(
            f"{request.path} lies in the run that --force would delete.", hint="Copy it elsewhere, or give a --name."
        )
    manifest = manifest_for_case(request.data_folder, request.case)
    record = _new_record(request, run, manifest)
    finished = _imported_before(run, record.identity, request.force)
    if finished is not None:
        return finished
    with progress.task(f"Reading {request.path.name}", total=None):
        state = state_for_case(request.case, request.path)
    with run_lock(run.folder):
        # Again under the lock: whoever held it until now may have imported this very file.
        return _imported_before(run, record.identity, request.force) or _imported_run(
            request, run, record, manifest, state, progress
        )


def _imported_before(run: RunDirectory, identity: RunIdentity, force: bool) -> ImportResult | None:
    existing = existing_record(run, identity, force)
    if existing is None or existing.status != "complete":
        return None
    return ImportResult(run=run, record=existing, evaluation=checked_evaluation(run), imported=False)


def _new_record(request: ImportRequest, run: RunDirectory, manifest: Manifest) -> RunRecord:
    return RunRecord(
        name=run.name,
        identity=RunIdentity(
            case=request.case.name,
            data=manifest.fingerprint,
            recipe={
                "name": IMPORTED_RECIPE,
                "resize_px": _PREPROCESSING.resize_px,
                "crop_px": _PREPROCESSING.crop_px,
            },
            loss=request.case.loss,
            label_mode=request.label_mode,
            seed=0,
            weights=f"file {request.path.name} {sha256_from_file(request.path)}",
        ),
        contract=Contract(
            case=request.case.name,
            class_names=request.case.class_names,
            label_mode=request.label_mode,
            preprocessing=_PREPROCESSING,
            synthetic=manifest.synthetic,
        ),
        manifest=str(manifest.path.resolve()),
        status="training",
        one_of_the_eight=True,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine_description(),
    )


def _imported_run(
    request: ImportRequest,
    run: RunDirectory,
    record: RunRecord,
    manifest: Manifest,
    state: dict[str, Tensor],
    progress: Progress,
) -> ImportResult:
    evaluation_set = ensured_evaluation_set(run.evaluation_sets, manifest, _PREPROCESSING, progress)
    if request.force:
        empty_run(run)  # Only now, when file and data are known to be good.
    run.write_record(record)
    write_artifact(
        run.checkpoint,
        partial(save_tensors, tensors=state),
        kind=Kind.CHECKPOINT,
        parents={"data": record.identity.data, "file": sha256_from_file(request.path)},
        packages=("torch", "torchvision", "safetensors"),
        contract=record.contract,
        details={
            "epoch": _NO_EPOCH,
            "initial_weights": record.identity.weights,
            "identity": record.identity.model_dump(mode="json"),
        },
    )
    state.clear()  # 770 MB that the golden's own copy needs
    complete, evaluation = completed_run(
        run, record, evaluation_set, epoch=_NO_EPOCH, best_epoch=_NO_EPOCH, progress=progress
    )
    return ImportResult(run=run, record=complete, evaluation=evaluation, imported=True)
