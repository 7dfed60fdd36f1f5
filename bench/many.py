"""The bench: for each run and batch size, load every trial, prove parity, then time together what did not fail."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.backends.interface import LoadRequest
from bench.flips import write_flips
from bench.gate import Word
from bench.judging import answered_rows, judged_splits, verdict_from_answers
from bench.messages import Answer, Answered, Load, Loaded
from bench.results import Splits, Trial, TrialResult, answers_from_file, answers_path
from bench.tables import BENCH_COLUMNS, bench_rows
from bench.timing import FULL, QUICK, Plan, timed_together
from bench.trials import (
    Reference,
    available_backends,
    checked_artifact,
    deployed_bytes,
    deployed_sha256,
    kept_results,
    reference_of_run,
    trials_of_run,
    unavailability,
)
from bench.worker_process import WorkerProcess
from harness.core.errors import BackendError, HarnessError, UsageError
from harness.core.files import sha256_from_file, write_text_atomically
from harness.core.interrupts import interrupts_held
from harness.core.machine import core_count, machine_description
from harness.core.progress import Progress
from harness.core.runs import RunDirectory

_DEFAULT_BATCH_SIZES = (1, 8)
# Answers must not depend on the size of the batch; 5 is what is left over at the end of a data set.
_OTHER_BATCHES = (1, 5, 8, 32)


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What `harness bench` was asked for; `margin` is a fraction, `asked_backends` says they were named."""

    backends: tuple[str, ...]
    asked_backends: bool
    batch_sizes: tuple[int, ...]
    threads: int
    margin: float
    margin_set: str
    splits: Splits
    plan: Plan
    force: bool

    @staticmethod
    def from_options(
        *,
        backends: tuple[str, ...],
        batch_sizes: tuple[int, ...],
        threads: int,
        margin: float,
        splits: Splits = "test",
        quick: bool,
        force: bool,
    ) -> BenchRequest:
        """Resolve the command line's options: none named means all, 0 threads one per core."""
        return BenchRequest(
            backends=tuple(dict.fromkeys(backends)) or tuple(available_backends()),
            asked_backends=bool(backends),
            batch_sizes=tuple(dict.fromkeys(batch_sizes)) or _DEFAULT_BATCH_SIZES,
            threads=threads or core_count(),
            margin=margin / 100,
            margin_set=datetime.now(UTC).isoformat(timespec="seconds"),
            splits=splits,
            plan=QUICK if quick else FULL,
            force=force,
        )


@dataclass(kw_only=True)
class BenchOutcome:
    """All results, and the failures that leave something unmeasured."""

    results: list[TrialResult] = field(default_factory=list)
    failures: list[FailedRow] = field(default_factory=list)

    def columns(self) -> list[str]:
        return BENCH_COLUMNS

    def rows(self) -> list[list[str]]:
        return bench_rows(self.results)

    def reasons(self) -> list[str]:
        """One line per verdict that is not PASS."""
        return [
            f"{result.trial.run} {result.trial.identifier}: {result.verdict.word.value}, {result.verdict.step}: "
            f"{result.verdict.reason}"
            for result in self.results
            if result.verdict is not None and result.verdict.word is not Word.PASS
        ]

    def verdict_failed(self, *, require_pass: bool) -> bool:
        words = [result.verdict.word if result.verdict else None for result in self.results]
        return any(word is Word.FAIL or (require_pass and word is not Word.PASS) for word in words)

    def json_text(self) -> str:
        return json.dumps([result.model_dump(mode="json", exclude={"machine"}) for result in self.results])


@dataclass(frozen=True, kw_only=True)
class FailedRow:
    """A run or trial that could not be measured."""

    name: str
    error: HarnessError


def bench_many(runs: list[RunDirectory], request: BenchRequest, progress: Progress) -> BenchOutcome:
    """Measure every trial of every run; a run or trial that fails is a row, never the end.

    Every finished trial is on disk before the next group begins.
    """
    outcome = BenchOutcome()
    missing = {name for name, why in available_backends().items() if why}
    for number, run in enumerate(runs, start=1):
        progress.say(f"[{number}/{len(runs)}] {run.name}")
        try:
            reference = reference_of_run(run)
        except HarnessError as error:
            outcome.failures.append(FailedRow(name=run.name, error=error))
            continue
        trials = trials_of_run(run, request.backends, request.batch_sizes, request.threads)
        if not trials:
            nothing = UsageError(
                f"{run.name} has nothing for {', '.join(request.backends)}.", hint="Run `harness export` first."
            )
            outcome.failures.append(FailedRow(name=run.name, error=nothing))
        for batch_size, group in groupby(trials, key=lambda trial: trial.batch_size):
            members = list(group)
            results: Iterable[TrialResult] | None = None
            if not request.force:
                results = kept_results(
                    reference, members, request.margin, request.splits, request.plan.quick, machine_description()
                )
            if results is not None:
                progress.say(f"{run.name}, batch {batch_size}: measured before, unchanged (--force measures again)")
            else:
                results = _group_results(reference, members, batch_size, request, progress)
            for result in results:
                _keep(run, result)
                outcome.results.append(result)
                asked = request.asked_backends and result.trial.backend in missing
                if result.status == "failed" or (result.status == "unavailable" and asked):
                    hint = f"Its log is in {run.bench_folder}."
                    failure = BackendError(f"{run.name} {result.trial.identifier}: {result.reason}", hint=hint)
                    outcome.failures.append(FailedRow(name=run.name, error=failure))
        flips = write_flips(reference, [each for each in outcome.results if each.trial.run == run.name])
        if flips:
            progress.say(f"{run.name}: {len(flips)} changed answers are in {run.bench_folder / 'flips.csv'}")
    return outcome


def _keep(run: RunDirectory, result: TrialResult) -> None:
    path = run.bench_folder / f"{result.trial.identifier}.json"
    write_text_atomically(path, result.model_dump_json(indent=1) + "\n")


def _group_results(
    reference: Reference,
    trials: list[Trial],
    batch_size: int,
    request: BenchRequest,
    progress: Progress,
) -> Iterator[TrialResult]:
    """Measure the trials of one batch size together, and yield a result for each."""
    common: dict[str, Any] = {
        "margin": request.margin,
        "margin_set": request.margin_set,
        "splits": request.splits,
        "quick": request.plan.quick,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine_description(),
    }
    # A damaged file is told as one even where nothing could run it whole.
    unavailable = {
        trial.identifier: why
        for trial in trials
        if (why := unavailability(trial)) and not checked_artifact(reference, trial)[1]
    }
    proved: list[TrialResult] = []
    with ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        load_s: dict[str, float] = {}
        candidates = [trial for trial in trials if trial.identifier not in unavailable]
        with progress.task(f"{reference.run.name} parity, batch {batch_size}", total=len(candidates)) as task:
            for trial in candidates:
                draft = TrialResult(trial=trial, status="measured", **common)
                others = _OTHER_BATCHES if batch_size == request.batch_sizes[0] else ()
                result, worker, loaded_s = _proved(reference, draft, others, stack)
                proved.append(result)
                if worker is not None:
                    workers[trial.identifier], load_s[trial.identifier] = worker, loaded_s
                task.advance(note=trial.identifier)
        description = f"{reference.run.name} timing, batch {batch_size}"
        timings, failed = timed_together(workers, load_s, request.plan, progress, description=description)
    for result in proved:
        identifier = result.trial.identifier
        if identifier in failed:
            # What failed even while it was timed is not to be shipped on the strength of its answers.
            yield _failed(result, failed[identifier])
        else:
            yield result.model_copy(update={"timing": timings.get(identifier)})
    for trial in trials:
        if trial.identifier in unavailable:
            yield TrialResult(trial=trial, status="unavailable", reason=unavailable[trial.identifier], **common)


def _failed(result: TrialResult, error: BackendError) -> TrialResult:
    return result.model_copy(update={"status": "failed", "reason": error.message, "verdict": None})


def _proved(
    reference: Reference, draft: TrialResult, other_batches: tuple[int, ...], stack: ExitStack
) -> tuple[TrialResult, WorkerProcess | None, float]:
    """Load a trial's model and judge its answers; return its worker and load time where it may be timed."""
    trial = draft.trial
    sidecar, problems = checked_artifact(reference, trial)
    if sidecar is not None:
        whole = {"artifact_sha256": deployed_sha256(sidecar), "artifact_size_bytes": deployed_bytes(sidecar)}
        draft = draft.model_copy(update=whole | {"judged_splits": judged_splits(draft.splits, sidecar)})
    if problems:
        verdict, _ = verdict_from_answers(reference, draft, problems, None)
        return draft.model_copy(update={"verdict": verdict}), None, 0.0
    with interrupts_held():  # Ctrl-C between the start of the process and its entry here would leave it behind.
        worker = stack.enter_context(WorkerProcess(reference.run.bench_folder / f"{trial.identifier}.log"))
    path = answers_path(reference.run, trial)
    rows = np.concatenate(answered_rows(reference, draft.splits, draft.judged_splits))
    try:
        loaded = worker.ask(_load_message(reference, trial, rows), Loaded)
        draft = draft.model_copy(update={"description": loaded.description})
        others = [size for size in other_batches if size != trial.batch_size]
        answered = worker.ask(Answer(out=path.resolve(), other_batches=others), Answered)
    except BackendError as error:
        worker.kill()
        return _failed(draft, error), None, 0.0
    stored = {"answers_sha256": sha256_from_file(path), "refused_batches": answered.refused_batches}
    verdict, parity = verdict_from_answers(reference, draft, [], answers_from_file(path))
    result = draft.model_copy(update=stored | {"verdict": verdict, "parity": parity})
    if verdict.word is Word.FAIL:
        worker.close()
        return result, None, 0.0
    return result, worker, loaded.load_s


def _load_message(reference: Reference, trial: Trial, rows: npt.NDArray[np.int64]) -> Load:
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
