"""What trained and imported runs have in common: which directory may be written, and how a run is completed."""

from __future__ import annotations

import shutil

from pydantic import ValidationError

from harness.core.artifacts import Kind, verified_sidecar
from harness.core.errors import RunError
from harness.core.files import sha256_from_file, write_text_atomically
from harness.core.lock import contents_without_lock
from harness.core.progress import Progress
from harness.core.runs import RunDirectory, RunIdentity, RunRecord
from harness.data.evaluation_set import EvaluationSet
from harness.data.golden import ensured_golden
from train.evaluation import Evaluation, evaluation_from_logits


def existing_record(run: RunDirectory, identity: RunIdentity, force: bool) -> RunRecord | None:
    """Return the record of a run of this identity in the directory, None where a new one is to be made.

    Raises RunError where the directory holds anything else.
    """
    if run.folder.exists() and not run.folder.is_dir():
        raise RunError(f"{run.folder} is a file, not the folder of a run.", hint="Choose another --name or --runs.")
    if not run.folder.exists() or not contents_without_lock(run.folder):
        return None
    if not run.record_path.is_file():
        raise RunError(f"{run.folder} holds files but no run.json.", hint="Choose another --name, or empty the folder.")
    if force:
        return None
    existing = run.read_record()
    differences = existing.identity.differences(identity)
    if differences:
        hint = "Give this one its own --name, or replace the old one with --force."
        if any(difference.startswith("recipe precision") for difference in differences):
            hint += f" `--precision {existing.identity.recipe.get('precision')}` asks for the old one's precision."
        raise RunError(f"{run.folder} holds another experiment ({'; '.join(differences[:4])}).", hint=hint)
    return existing


def checked_evaluation(run: RunDirectory) -> Evaluation:
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


def empty_run(run: RunDirectory) -> None:
    """Delete an old run but for the lock, which this process holds by that very file.

    run.json goes last: a folder without it is taken for somebody's own files and never touched again.
    """
    if not run.record_path.is_file():
        return
    for path in contents_without_lock(run.folder):
        if path.is_dir():
            shutil.rmtree(path)
        elif path != run.record_path:
            path.unlink()
    run.record_path.unlink()


def completed_run(
    run: RunDirectory,
    record: RunRecord,
    evaluation_set: EvaluationSet,
    *,
    epoch: int,
    best_epoch: int,
    progress: Progress,
) -> tuple[RunRecord, Evaluation]:
    """Let the written checkpoint answer its evaluation set, write what the answers are worth, call the run complete."""
    golden = ensured_golden(
        run.golden,
        checkpoint=run.checkpoint,
        evaluation_set=evaluation_set,
        contract=record.contract,
        progress=progress,
    )
    evaluation = evaluation_from_logits(
        golden.logits_bc,
        evaluation_set,
        record,
        checkpoint_sha256=sha256_from_file(run.checkpoint),
        epoch=epoch,
        best_epoch=best_epoch,
    )
    write_text_atomically(run.evaluation, evaluation.model_dump_json(indent=2) + "\n")
    complete = record.model_copy(update={"status": "complete"})
    run.write_record(complete)
    return complete, evaluation
