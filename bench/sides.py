"""One side of a comparison: the trials of a run, judged again from their stored answers where that can be done.

A side is a run directory, a folder of runs, or one trial record. Records may have travelled alone, as a build server
keeps them: then their own figures stand, and a note says so. Shapes: b images, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from bench.gate import Word
from bench.judging import (
    answered_rows,
    answers_of_result,
    evidence_of_result,
    never_answered,
    recomputed,
    verdict_from_answers,
    with_verdict,
)
from bench.paired import FilmAnswers, film_answers_from_rows
from bench.results import TrialResult, answers_path, result_from_file, results_from_folder
from bench.trials import Reference, artifact_kind, checked_artifact, deployed_sha256, reference_of_run
from harness.core.artifacts import Kind
from harness.core.errors import ArtifactError, HarnessError
from harness.core.metrics import answers_from_probabilities, probabilities_from_logits
from harness.core.runs import RunDirectory, RunRecord

_WANTED = "Give a run directory (with bench/*.json), a folder of runs, or one trial record; `harness bench` makes them."


@dataclass(frozen=True, kw_only=True)
class JudgedTrial:
    """A trial's result, with verdict and figures of its stored answers where those decide.

    `standing` says what is wrong with it: `stale`, the artifact has been made again since; `changed`, its answers are
    no longer those that were judged. `answers` are None where they cannot be had.
    """

    result: TrialResult
    standing: Literal["current", "stale", "changed"] = "current"
    answers: FilmAnswers | None = None
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The verdict, or what kept the trial from one."""
        return self.result.verdict.word.value if self.result.verdict else self.result.status.upper()

    @property
    def step(self) -> str:
        return self.result.verdict.step if self.result.verdict else ""

    @property
    def reason(self) -> str:
        return self.result.verdict.reason if self.result.verdict else self.result.reason


@dataclass(frozen=True, kw_only=True)
class RunSide:
    """The trials of one run by identifier. `reference` and `record` are None where they did not travel along."""

    trials: dict[str, JudgedTrial] = field(default_factory=dict)
    reference: Reference | None = None
    record: RunRecord | None = None
    notes: tuple[str, ...] = ()

    def golden_answers(self) -> FilmAnswers | None:
        """Return the checkpoint's own answers to the test split; None where they are not there or no numbers."""
        if self.reference is None:
            return None
        rows = self.reference.evaluation_set.indices_of("test")
        logits_bc, label_mode = self.reference.logits_bc[rows], self.reference.contract.label_mode
        if not len(rows) or not np.isfinite(logits_bc).all():
            return None
        answers_b = answers_from_probabilities(probabilities_from_logits(logits_bc, label_mode), label_mode)
        return film_answers_from_rows(self.reference, rows, answers_b)


@dataclass(frozen=True, kw_only=True)
class Side:
    """What OLD or NEW names: runs by name, only one unless `kind` is "runs"."""

    path: Path
    kind: Literal["record", "run", "runs"]
    runs: dict[str, RunSide]

    def identifiers(self) -> list[str]:
        return sorted({identifier for run in self.runs.values() for identifier in run.trials})


def side_from_path(path: Path, *, baseline: bool) -> Side:
    """Read one side; raise ArtifactError where there is nothing, nothing measured, or a record is malformed.

    `baseline` is OLD: a PASS that it was given stands even where it would be a FAIL now, for its files may have been
    damaged or made again since, and that must not hide a loss.
    """
    place = path.resolve()  # A run has a name, and "." has none.
    if place.is_file():
        result = _named_record(place)
        run = RunDirectory(place.parent.parent) if place.parent.name == "bench" else None
        name = run.name if run else result.trial.run
        return Side(path=path, kind="record", runs={name: _run_side(run, [result], baseline)})
    if not place.is_dir():
        raise ArtifactError(f"{path} does not exist.", hint=_WANTED)
    if (place / "run.json").is_file() or list(place.glob("bench/*.json")):
        folders, kind = [place], "run"
    else:
        folders = sorted({record.parent.parent for record in place.glob("*/bench/*.json")})
        kind = "runs"
    runs = {}
    for folder in folders:
        results = results_from_folder(folder / "bench")
        if results:
            runs[folder.name] = _run_side(RunDirectory(folder), results, baseline)
    if not runs:
        raise ArtifactError(f"{path} holds no trial record.", hint=_WANTED)
    return Side(path=path, kind="run" if kind == "run" else "runs", runs=runs)


def _named_record(path: Path) -> TrialResult:
    try:
        return result_from_file(path)
    except ArtifactError as error:  # Its hint is to delete the file, and this one may be anything.
        raise ArtifactError(error.message, hint=_WANTED) from error


def _run_side(run: RunDirectory | None, results: list[TrialResult], baseline: bool) -> RunSide:
    notes, trials = [], {}
    reference = record = None
    if run is None:
        notes.append("the record lies outside its run, so its own verdict and figures stand")
    elif not run.record_path.is_file():
        notes.append("run.json did not travel along, so the records' own verdicts and figures stand")
    else:
        record = run.read_record()
        try:
            reference = reference_of_run(run)
        except HarnessError as error:
            notes.append(f"the records' own verdicts and figures stand: {error.message}")
    for result in results:
        identifier = result.trial.identifier
        if identifier in trials:
            raise ArtifactError(
                f"{result.trial.run} has two records of {identifier}.", hint="Move the one you do not mean elsewhere."
            )
        judged = JudgedTrial(result=result) if reference is None else _judged(reference, result)
        trials[identifier] = _baseline(result, judged) if baseline else judged
    return RunSide(trials=trials, reference=reference, record=record, notes=tuple(notes))


def _baseline(result: TrialResult, judged: JudgedTrial) -> JudgedTrial:
    if result.verdict is None or result.verdict.word is not Word.PASS or judged.word != Word.FAIL:
        return judged
    note = f"it is FAIL now ({judged.step}: {judged.reason}); its PASS stands, so that no loss is hidden"
    return replace(judged, result=result, notes=(note,))


def _judged(reference: Reference, result: TrialResult) -> JudgedTrial:
    """Judge a trial again by its stored answers; one that has none, for it failed or was not run, stands as it is."""
    if result.verdict is None or never_answered(result):
        return JudgedTrial(result=result)
    if result.answers_sha256 is not None and not answers_path(reference.run, result.trial).is_file():
        return JudgedTrial(result=result, notes=("its answers are not there: the record's own verdict and figures",))
    try:
        answers = answers_of_result(reference, result)
        films = _film_answers(reference, result)
    except ArtifactError:
        return JudgedTrial(result=result, standing="changed", notes=("its stored answers were changed since",))
    there = (reference.run.folder / result.trial.artifact).is_file()
    if _made_again(reference, result, there):
        note = f"{result.trial.artifact} was made again after it was measured"
        return JudgedTrial(result=result, standing="stale", answers=films, notes=(note,))
    if there:
        try:
            fresh = recomputed(reference, result)
        except ArtifactError as error:
            return JudgedTrial(result=result, standing="changed", answers=films, notes=(error.message,))
        return JudgedTrial(result=fresh, answers=films, notes=_moved(result, fresh))
    verdict, parity = verdict_from_answers(reference, result, [], answers)
    fresh = with_verdict(result, verdict, parity)
    return JudgedTrial(result=fresh, answers=films, notes=(*_moved(result, fresh), "its artifact is not there"))


def _made_again(reference: Reference, result: TrialResult, there: bool) -> bool:
    """Tell whether the artifact is another whole one than was measured; a damaged one is for the gate to judge."""
    if artifact_kind(Path(result.trial.artifact)) is Kind.CHECKPOINT:  # The golden knows its checkpoint, there or not.
        return result.artifact_sha256 != reference.checkpoint_sha256
    sidecar = checked_artifact(reference, result.trial)[0] if there else None
    return sidecar is not None and deployed_sha256(sidecar) != result.artifact_sha256


def _moved(result: TrialResult, fresh: TrialResult) -> tuple[str, ...]:
    """Return a note where the stored answers lead to another verdict than the record has."""
    was, now = result.verdict, fresh.verdict
    if was is None or now is None or (was.word, was.step) == (now.word, now.step):
        return ()
    return (f"its record says {was.word.value} ({was.step}), judged again it is {now.word.value} ({now.step})",)


def _film_answers(reference: Reference, result: TrialResult) -> FilmAnswers | None:
    """Return a candidate's answers to the images that decide; None where they are no answers to these images."""
    evidence = evidence_of_result(reference, result, [], answers_of_result(reference, result))
    # Where the contract is broken the evidence holds the golden's answers in place of the candidate's.
    if evidence.contract_problems or not np.isfinite(evidence.candidate_bc).all():
        return None
    rows, _ = answered_rows(reference, result.splits, result.judged_splits)
    return film_answers_from_rows(reference, rows, evidence.answers.candidate_b)
