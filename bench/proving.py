"""Before anything is timed: load a trial's model in a process of its own, have it answer, and judge the answers."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from bench.backends.interface import LoadRequest
from bench.judging import answered_rows, judged_splits, verdict_from_answers
from bench.messages import Answer, Answered, Load, Loaded
from bench.results import Splits, Trial, TrialResult, answers_from_file, answers_path
from bench.timings import Mode
from bench.trials import Reference, checked_artifact, deployed_bytes, deployed_sha256, unavailability
from bench.worker_process import started_worker
from harness.core.errors import BackendError
from harness.core.files import sha256_from_file
from harness.core.machine import machine_description


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Under what a trial is judged and timed; `margin` is a fraction."""

    margin: float
    margin_set: str
    splits: Splits
    mode: Mode
    machine: dict[str, JsonValue]

    @staticmethod
    def here(*, margin: float, margin_set: str, splits: Splits, mode: Mode) -> Terms:
        return Terms(margin=margin, margin_set=margin_set, splits=splits, mode=mode, machine=machine_description())

    def draft(self, trial: Trial) -> TrialResult:
        """Return the record of a trial of which nothing is known yet."""
        return TrialResult(
            trial=trial,
            status="measured",
            margin=self.margin,
            margin_set=self.margin_set,
            splits=self.splits,
            mode=self.mode,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=self.machine,
        )


def proved(reference: Reference, trial: Trial, terms: Terms, other_batches: tuple[int, ...]) -> TrialResult:
    """Return the record of a trial with its verdict; a model that cannot run, or fails, is a record with the reason."""
    draft = terms.draft(trial)
    sidecar, problems = checked_artifact(reference, trial)
    # A damaged file is told as one even where nothing could run it whole.
    why = unavailability(trial)
    if why and not problems:
        return draft.model_copy(update={"status": "unavailable", "reason": why})
    if sidecar is not None:
        whole = {"artifact_sha256": deployed_sha256(sidecar), "artifact_size_bytes": deployed_bytes(sidecar)}
        draft = draft.model_copy(update=whole | {"judged_splits": judged_splits(draft.splits, sidecar)})
    if problems:
        verdict, _ = verdict_from_answers(reference, draft, problems, None)
        return draft.model_copy(update={"verdict": verdict})
    try:
        return _judged(reference, draft, [size for size in other_batches if size != trial.batch_size])
    except BackendError as error:
        return failed_result(draft, error)


def _judged(reference: Reference, draft: TrialResult, other_batches: list[int]) -> TrialResult:
    """Let a process of its own answer every row, and judge; raise BackendError where it fails."""
    trial, path = draft.trial, answers_path(reference.run, draft.trial)
    rows = np.concatenate(answered_rows(reference, draft.splits, draft.judged_splits))
    with ExitStack() as stack:
        worker = started_worker(stack, worker_log(reference, trial))
        try:
            loaded = worker.ask(load_message(reference, trial, rows), Loaded)
            started_s = time.perf_counter()
            answered = worker.ask(Answer(out=path.resolve(), other_batches=other_batches), Answered)
        except BackendError:
            worker.kill()  # What hangs or misbehaves is not waited for.
            raise
    found = {
        "description": loaded.description,
        "answers_sha256": sha256_from_file(path),
        "answering_s": time.perf_counter() - started_s,
        "refused_batches": answered.refused_batches,
    }
    draft = draft.model_copy(update=found)
    verdict, parity = verdict_from_answers(reference, draft, [], answers_from_file(path))
    return draft.model_copy(update={"verdict": verdict, "parity": parity})


def failed_result(result: TrialResult, error: BackendError) -> TrialResult:
    """Return a record of failure: what breaks is not to be shipped on the strength of its answers."""
    lost = {"verdict": None, "timing": None, "twin": None}
    return result.model_copy(update={"status": "failed", "reason": error.message} | lost)


def load_message(reference: Reference, trial: Trial, rows: npt.NDArray[np.int64]) -> Load:
    """Return what a worker needs to load a trial's model and to answer `rows` of the evaluation set."""
    return Load(
        backend=trial.backend,
        request=LoadRequest(
            artifact=(reference.run.folder / trial.artifact).resolve(),
            case=reference.contract.case,
            batch_size=trial.batch_size,
            image_px=reference.contract.preprocessing.crop_px,
            class_count=len(reference.contract.class_names),
            threads=trial.threads,
            variant=trial.form,
        ),
        images=(reference.evaluation_set.folder / "images.npy").resolve(),
        rows=rows.tolist(),
        preprocessing=reference.contract.preprocessing,
        pair=reference.passport.pair,
    )


def worker_log(reference: Reference, trial: Trial) -> Path:
    return reference.run.bench_folder / f"{trial.identifier}.log"
