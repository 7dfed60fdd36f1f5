"""One run from request to finished directory: identity first, then data, training, checkpoint, evaluation."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import nn

from harness.core.artifacts import Kind, write_artifact
from harness.core.lock import run_lock
from harness.core.models import freeze_trunk, load_trunk, model_from_case
from harness.core.progress import Progress
from harness.core.runs import RunDirectory, RunIdentity, RunRecord
from harness.data.evaluation_set import EvaluationSet, ensured_evaluation_set
from harness.data.film_cache import ensured_film_cache
from harness.data.manifest import Manifest, check_films, manifest_for_case
from train.batches import TrainingData, training_data
from train.directory import checked_evaluation, completed_run, empty_run, existing_record
from train.evaluation import Evaluation
from train.features import FrozenTrunk
from train.history import told_epochs
from train.loop import Outcome, Training, train_network
from train.losses import balanced_weights, loss_function
from train.precision import exact_arithmetic, training_device
from train.ranks import ONE_PROCESS, Ranks, synchronised
from train.recipes import Recipe
from train.request import TrainRequest, check_label_mode, new_record
from train.resume import ResumeFolder
from train.sources import FeatureSource, ImageSource, Source


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run; `trained` is false where it was finished before."""

    run: RunDirectory
    record: RunRecord
    evaluation: Evaluation
    trained: bool


def train_run(request: TrainRequest, progress: Progress, ranks: Ranks = ONE_PROCESS) -> TrainResult:
    """Train one case, or go on with it, or leave it alone where it is finished.

    Raises RunError where the directory holds another experiment or another process is at work in it, DataError for
    unusable data or weights.
    """
    check_label_mode(request.case, request.label_mode)
    manifest = manifest_for_case(request.data_folder, request.case)
    run = RunDirectory(request.runs_folder / (request.name or request.case.name))
    record = new_record(request, run, manifest)
    finished = ranks.from_first(lambda: _finished_before(run, record.identity, request.force))
    if finished is not None and not run.resume_folder.exists():
        return finished
    with run_lock(run.folder) if ranks.writes else nullcontext(), exact_arithmetic(request.recipe.deterministic):
        # Again under the lock: whoever held it until now may have finished this very run.
        finished = ranks.from_first(lambda: _finished_before(run, record.identity, request.force))
        if finished is not None:
            if ranks.writes:
                ResumeFolder(run.resume_folder).remove()  # Of a process that was killed right after its last word.
            return finished
        existing = ranks.from_first(lambda: existing_record(run, record.identity, request.force))
        return _trained_run(request, run, existing or record, manifest, progress, ranks)


def _finished_before(run: RunDirectory, identity: RunIdentity, force: bool) -> TrainResult | None:
    existing = existing_record(run, identity, force)
    if existing is None or existing.status != "complete":
        return None
    return TrainResult(run=run, record=existing, evaluation=checked_evaluation(run), trained=False)


def _trained_run(
    request: TrainRequest,
    run: RunDirectory,
    record: RunRecord,
    manifest: Manifest,
    progress: Progress,
    ranks: Ranks,
) -> TrainResult:
    recipe, device = request.recipe, training_device()
    network, provenance = initial_network(request)
    ranks.from_first(lambda: check_films(manifest))
    evaluation_set = ranks.after_first(
        lambda: ensured_evaluation_set(run.evaluation_sets, manifest, recipe.preprocessing, progress)
    )
    cache = None
    if recipe.augmentation != "none":
        cache = ranks.after_first(
            lambda: ensured_film_cache(run.film_caches, manifest, progress, side_px=recipe.cache_side_px)
        )
    if ranks.writes:
        if request.force:
            empty_run(run)  # Only now, when weights and data of the new run are known to be good.
        run.write_record(record)
    ranks.wait_for_all()  # No other process may look for a state to resume before an old one is deleted.
    data = training_data(manifest, evaluation_set, request.seed, cache=cache, recipe=recipe)
    resume = ResumeFolder(run.resume_folder)
    network, batch_norm = synchronised(network, ranks)
    alpha_c = None
    if recipe.class_weights == "balanced":
        alpha_c = balanced_weights(torch.from_numpy(data.labels_b), len(request.case.class_names))
    training = Training(
        case=request.case,
        recipe=recipe,
        network=network,
        source=_source(request, network, data, device, ranks, resume.folder / "features", progress),
        loss=loss_function(
            record.identity.loss,
            record.identity.label_mode,
            alpha_c=alpha_c,
            label_smoothing=recipe.label_smoothing,
        ),
        label_mode=record.identity.label_mode,
        data=data,
        resume=resume,
        device=device,
        ranks=ranks,
    )
    with told_epochs(run) as on_epoch:
        outcome = train_network(training, progress, on_epoch=on_epoch)
    del network, training  # 770 MB that the golden's own copy needs
    details: dict[str, JsonValue] = {"initial_weights": provenance, "processes": ranks.count, "batch_norm": batch_norm}
    return ranks.from_first(lambda: _finished(request, run, record, resume, outcome, evaluation_set, details, progress))


def initial_network(request: TrainRequest) -> tuple[nn.Module, str]:
    """Return the network before its first step, and where its weights came from; raise DataError for bad weights."""
    network = model_from_case(request.case, seed=request.seed)
    provenance = load_trunk(network, request.case, request.weights)
    if request.case.trainable == "head":
        freeze_trunk(network, request.case.architecture)
    return network, provenance


def _source(
    request: TrainRequest,
    network: nn.Module,
    data: TrainingData,
    device: torch.device,
    ranks: Ranks,
    features: Path,
    progress: Progress,
) -> Source:
    if request.case.trainable == "all":
        return ImageSource(network, request.case, data, request.recipe, device, ranks)
    return FeatureSource(
        FrozenTrunk(
            network=network,
            architecture=request.case.architecture,
            data=data,
            recipe=request.recipe,
            device=device,
            ranks=ranks,
            folder=features,
            progress=progress,
        ),
        request.case,
    )


def _finished(
    request: TrainRequest,
    run: RunDirectory,
    record: RunRecord,
    resume: ResumeFolder,
    outcome: Outcome,
    evaluation_set: EvaluationSet,
    details: dict[str, JsonValue],
    progress: Progress,
) -> TrainResult:
    """Write what a finished run has."""
    kept_epoch = _publish_checkpoints(run, resume, record, outcome, request.recipe, details)
    complete, evaluation = completed_run(
        run, record, evaluation_set, epoch=kept_epoch, best_epoch=outcome.best_epoch, progress=progress
    )
    resume.remove()
    return TrainResult(run=run, record=complete, evaluation=evaluation, trained=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # Some file systems have no hard links.
        shutil.copyfile(source, target)


def _publish_checkpoints(
    run: RunDirectory,
    resume: ResumeFolder,
    record: RunRecord,
    outcome: Outcome,
    recipe: Recipe,
    details: dict[str, JsonValue],
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
            lambda temporary, epoch=epoch: _link_or_copy(resume.weights_path(epoch), temporary),  # type: ignore[misc]
            kind=Kind.CHECKPOINT,
            parents={"data": record.identity.data},
            packages=("torch", "torchvision", "safetensors"),
            contract=record.contract,
            details=details | {"epoch": epoch, "identity": record.identity.model_dump(mode="json")},
        )
    return kept
