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

from bench.backends.interface import LoadRequest
from bench.gate import Evidence, Parity, Verdict, Word, judged
from bench.messages import Answer, Answered, Load, Loaded
from bench.pair import pair_problems
from bench.results import Trial, TrialResult
from bench.tables import BENCH_COLUMNS, bench_rows
from bench.timing import FULL, QUICK, Plan, timed_together
from bench.trials import (
    Reference,
    available_backends,
    checked_artifact,
    deployed_bytes,
    kept_results,
    reference_of_run,
    trials_of_run,
    unavailability,
)
from bench.worker_process import WorkerProcess
from harness.core.errors import BackendError, HarnessError, UsageError
from harness.core.files import write_text_atomically
from harness.core.interrupts import interrupts_held
from harness.core.machine import core_count, machine_description
from harness.core.progress import Progress
from harness.core.runs import RunDirectory
from harness.core.variants import variant_from_name

_DEFAULT_BATCH_SIZES = (1, 8)


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What `harness bench` was asked for; `margin` is a fraction, `asked_backends` says they were named."""

    backends: tuple[str, ...]
    asked_backends: bool
    batch_sizes: tuple[int, ...]
    threads: int
    margin: float
    margin_set: str
    plan: Plan
    force: bool

    @staticmethod
    def from_options(
        *,
        backends: tuple[str, ...],
        batch_sizes: tuple[int, ...],
        threads: int,
        margin: float,
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


@dataclass(kw_only=True)
class _Candidate:
    """A trial on its way through the gate."""

    trial: Trial
    sha256: str | None = None
    size_bytes: int | None = None
    loaded: Loaded | None = None
    verdict: Verdict | None = None
    parity: Parity | None = None
    error: BackendError | None = None


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
                results = kept_results(reference, members, request.margin, request.plan.quick, machine_description())
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
    machine, created = machine_description(), datetime.now(UTC).isoformat(timespec="seconds")
    # A damaged file is told as one even where nothing could run it whole.
    unavailable = {
        trial.identifier: why
        for trial in trials
        if (why := unavailability(trial)) and not checked_artifact(reference, trial)[1]
    }
    candidates = [_Candidate(trial=trial) for trial in trials if trial.identifier not in unavailable]
    with ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        with progress.task(f"{reference.run.name} parity, batch {batch_size}", total=len(candidates)) as task:
            for candidate in candidates:
                worker = _proved(reference, candidate, request, stack)
                if worker is not None:
                    workers[candidate.trial.identifier] = worker
                task.advance(note=candidate.trial.identifier)
        load_s = {each.trial.identifier: each.loaded.load_s for each in candidates if each.loaded}
        description = f"{reference.run.name} timing, batch {batch_size}"
        timings, failed = timed_together(workers, load_s, request.plan, progress, description=description)
    common: dict[str, Any] = {
        "margin": request.margin,
        "margin_set": request.margin_set,
        "quick": request.plan.quick,
        "created": created,
        "machine": machine,
    }
    for candidate in candidates:
        error = candidate.error or failed.get(candidate.trial.identifier)
        yield TrialResult(
            trial=candidate.trial,
            status="failed" if error else "measured",
            reason=error.message if error else "",
            artifact_sha256=candidate.sha256,
            artifact_size_bytes=candidate.size_bytes,
            description=candidate.loaded.description if candidate.loaded else None,
            # What failed on the way, even while it was timed, is not to be shipped on the strength of its answers.
            verdict=None if error else candidate.verdict,
            parity=candidate.parity,
            timing=timings.get(candidate.trial.identifier),
            **common,
        )
    for trial in trials:
        if trial.identifier in unavailable:
            yield TrialResult(trial=trial, status="unavailable", reason=unavailable[trial.identifier], **common)


def _proved(
    reference: Reference, candidate: _Candidate, request: BenchRequest, stack: ExitStack
) -> WorkerProcess | None:
    """Load a candidate and judge its answers; return its worker where it may be timed, else end it."""
    trial = candidate.trial
    sidecar, problems = checked_artifact(reference, trial)
    if sidecar is not None:
        candidate.sha256, candidate.size_bytes = sidecar.sha256, deployed_bytes(sidecar)
    if problems:
        candidate.verdict, _ = judged(_evidence(reference, trial, request, tuple(problems), None, ()))
        return None
    folder = reference.run.bench_folder
    with interrupts_held():  # Ctrl-C between the start of the process and its entry here would leave it behind.
        worker = stack.enter_context(WorkerProcess(folder / f"{trial.identifier}.log"))
    answers_path = folder / f"{trial.identifier}.answers.npz"
    try:
        candidate.loaded = worker.ask(_load_message(reference, trial), Loaded)
        worker.ask(Answer(out=answers_path.resolve()), Answered)
    except BackendError as error:
        candidate.error = error
        worker.kill()
        return None
    with np.load(answers_path, allow_pickle=False) as content:
        answers = {name: content[name] for name in content.files}
    description = candidate.loaded.description
    form = variant_from_name(trial.form)
    assert form is not None, "the sidecar was checked"
    found = reference.passport.problems(description.metadata, form)
    wanted_shape = (len(reference.test_rows), len(reference.contract.class_names))
    if answers["outputs_bc"].shape != wanted_shape:
        found.append(f"the answers have the shape {answers['outputs_bc'].shape}, the run's {wanted_shape}")
    evidence = _evidence(
        reference,
        trial,
        request,
        tuple(found),
        answers,
        tuple(description.departures),
    )
    candidate.verdict, candidate.parity = judged(evidence)
    if candidate.verdict.word is Word.FAIL:
        worker.close()
        return None
    return worker


def _load_message(reference: Reference, trial: Trial) -> Load:
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
        rows=reference.test_rows.tolist(),
        preprocessing=reference.contract.preprocessing,
        pair=reference.passport.pair,
    )


def _evidence(
    reference: Reference,
    trial: Trial,
    request: BenchRequest,
    problems: tuple[str, ...],
    answers: dict[str, Any] | None,
    departures: tuple[str, ...],
) -> Evidence:
    form = variant_from_name(trial.form)
    with_probabilities = answers is not None and form is not None and form.probabilities
    test_rows, labels_b = reference.test_rows, reference.evaluation_set.labels_b
    golden_bc = reference.logits_bc[test_rows]
    judging_rows = test_rows
    if not (labels_b[test_rows] >= 0).any():
        judging_rows = reference.evaluation_set.indices_of("validation")
    return Evidence(
        class_names=reference.contract.class_names,
        label_mode=reference.contract.label_mode,
        precision=trial.precision,
        margin=request.margin,
        contract_problems=problems,
        departures=departures,
        labels_b=labels_b[test_rows],
        golden_bc=golden_bc,
        candidate_bc=golden_bc if answers is None else answers["outputs_bc"],
        rolled_bc=None if answers is None else answers.get("rolled_bc"),
        pair_problems=()
        if answers is None or form is None
        else tuple(pair_problems(reference.passport, form, answers["pair_bc"])),
        outputs="probabilities" if with_probabilities else "logits",
        temperature=reference.passport.operating_point.temperature if with_probabilities else None,
        candidate_answers_b=None if answers is None else answers.get("answers_b"),
        reference_labels_b=labels_b[judging_rows],
        reference_logits_bc=reference.logits_bc[judging_rows],
    )
