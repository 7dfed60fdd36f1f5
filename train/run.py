"""One run from request to finished directory: identity first, then data, training, checkpoint, evaluation."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from harness.core.artifacts import Kind, verified_sidecar, write_artifact
from harness.core.cases import Case, LabelMode, Loss
from harness.core.contract import Contract
from harness.core.errors import RunError, UsageError
from harness.core.files import sha256_from_file, write_text_atomically
from harness.core.machine import machine_description
from harness.core.models import freeze_trunk, load_trunk, model_from_case
from harness.core.progress import Progress
from harness.core.runs import RunDirectory, RunIdentity, RunRecord
from harness.data.evaluation_set import ensured_evaluation_set
from harness.data.golden import ensured_golden
from harness.data.manifest import Manifest, check_films, manifest_for_case
from train.batches import training_data
from train.evaluation import Evaluation, evaluation_from_logits, write_history
from train.loop import Outcome, Training, train_network
from train.losses import loss_function
from train.recipes import Recipe
from train.resume import ResumeFolder


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What `harness train` was asked for, for one case. `weights` is imagenet, random or a path."""

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


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run; `trained` is false where it was finished before."""

    run: RunDirectory
    record: RunRecord
    evaluation: Evaluation
    trained: bool


def train_run(request: TrainRequest, progress: Progress) -> TrainResult:
    """Train one case, or go on with it, or leave it alone where it is finished.

    Raises RunError where the directory holds another experiment, DataError for unusable data or weights.
    """
    if request.label_mode == "multilabel" and request.case.dataset != 2:
        raise UsageError(
            f"{request.case.name} is of dataset-1, whose classes exclude each other.",
            hint="Only the dataset-2 cases have a multi-label form.",
        )
    manifest = manifest_for_case(request.data_folder, request.case)
    run = RunDirectory(request.runs_folder / (request.name or request.case.name))
    record = _new_record(request, run, manifest)
    existing = _existing_record(run, record.identity, request.force)
    if existing is not None and existing.status == "complete":
        return TrainResult(run=run, record=existing, evaluation=_checked_evaluation(run), trained=False)
    return _trained_run(request, run, existing or record, manifest, progress)


def _checked_evaluation(run: RunDirectory) -> Evaluation:
    """Read what a finished run achieved; raise where its checkpoint is not the one that achieved it."""
    hint = "Restore the files of the run, or train it again with --force."
    checkpoint = verified_sidecar(run.checkpoint, kind=Kind.CHECKPOINT, remedy=hint)
    try:
        evaluation = Evaluation.model_validate_json(run.evaluation.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        raise RunError(f"{run.evaluation} is not readable: {error}", hint=hint) from error
    if evaluation.checkpoint_sha256 != checkpoint.sha256:
        raise RunError(f"{run.evaluation} describes another checkpoint than {run.checkpoint.name}.", hint=hint)
    return evaluation


def _new_record(request: TrainRequest, run: RunDirectory, manifest: Manifest) -> RunRecord:
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


def _existing_record(run: RunDirectory, identity: RunIdentity, force: bool) -> RunRecord | None:
    if not run.folder.exists() or not any(run.folder.iterdir()):
        return None
    if not run.record_path.is_file():
        raise RunError(f"{run.folder} holds files but no run.json.", hint="Choose another --name, or empty the folder.")
    if force:
        return None
    existing = run.read_record()
    differences = existing.identity.differences(identity)
    if differences:
        raise RunError(
            f"{run.folder} holds another experiment ({'; '.join(differences[:4])}).",
            hint="Give this one its own --name, or replace the old one with --force.",
        )
    return existing


def _trained_run(
    request: TrainRequest, run: RunDirectory, record: RunRecord, manifest: Manifest, progress: Progress
) -> TrainResult:
    network = model_from_case(request.case, seed=request.seed)
    provenance = load_trunk(network, request.case, request.weights)
    check_films(manifest)
    evaluation_set = ensured_evaluation_set(run.evaluation_sets, manifest, request.recipe.preprocessing, progress)
    if request.case.trainable == "head":
        freeze_trunk(network, request.case.architecture)
    if request.force and run.record_path.is_file():
        shutil.rmtree(run.folder)  # Only now, when weights and data of the new run are known to be good.
    run.write_record(record)
    resume = ResumeFolder(run.resume_folder)
    outcome = train_network(
        Training(
            case=request.case,
            recipe=request.recipe,
            network=network,
            loss=loss_function(record.identity.loss, record.identity.label_mode),
            label_mode=record.identity.label_mode,
            data=training_data(manifest, evaluation_set, request.seed),
            resume=resume,
        ),
        progress,
        on_epoch=lambda history: write_history(run.metrics, history),
    )
    del network  # 770 MB that the golden's own copy needs
    kept_epoch = _publish_checkpoints(run, resume, record, outcome, request.recipe, provenance)
    logits_bc = ensured_golden(
        run.golden,
        checkpoint=run.checkpoint,
        evaluation_set=evaluation_set,
        contract=record.contract,
        progress=progress,
    )
    evaluation = evaluation_from_logits(
        logits_bc,
        evaluation_set,
        record,
        checkpoint_sha256=sha256_from_file(run.checkpoint),
        epoch=kept_epoch,
        best_epoch=outcome.best_epoch,
    )
    write_text_atomically(run.evaluation, evaluation.model_dump_json(indent=2) + "\n")
    complete = record.model_copy(update={"status": "complete"})
    run.write_record(complete)
    resume.remove()
    return TrainResult(run=run, record=complete, evaluation=evaluation, trained=True)


def _publish_checkpoints(
    run: RunDirectory, resume: ResumeFolder, record: RunRecord, outcome: Outcome, recipe: Recipe, provenance: str
) -> int:
    """Link the kept epoch to checkpoint.safetensors and the other of (best, last) beside it; return the former."""
    last_epoch = outcome.history[-1].epoch
    kept, other = (last_epoch, outcome.best_epoch) if recipe.keep == "last" else (outcome.best_epoch, last_epoch)
    other_name = "best" if recipe.keep == "last" else "last"
    targets = {run.checkpoint: kept}
    if other != kept:
        targets[run.checkpoint.with_stem(f"checkpoint-{other_name}")] = other
    for path, epoch in targets.items():
        write_artifact(
            path,
            lambda temporary, epoch=epoch: os.link(resume.weights_path(epoch), temporary),  # type: ignore[misc]
            kind=Kind.CHECKPOINT,
            parents={"data": record.identity.data},
            packages=("torch", "torchvision", "safetensors"),
            contract=record.contract,
            details={
                "epoch": epoch,
                "initial_weights": provenance,
                "identity": record.identity.model_dump(mode="json"),
            },
        )
    return kept
