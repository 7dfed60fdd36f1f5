"""From a trial's stored answers to its verdict: used when it is measured, and again by every report.

Which images decide: those of the test split, or of test and validation. `all` answers the training images too, whose
agreement is shown and decides nothing: the model was fitted to them, which flatters every conversion of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.evidence import Evidence, Float32s
from bench.gate import Verdict, Word, judged
from bench.messages import BATCH_REPEATS, FIRST_REPEATS, ROW_REPEATS
from bench.pair import pair_problems
from bench.parity import Parity
from bench.results import Answers, Splits, TrialResult, stored_answers
from bench.trials import Reference, checked_artifact
from harness.core.artifacts import Sidecar
from harness.core.errors import ArtifactError
from harness.core.variants import variant_from_name

_ROWS = "another row of the batch"
_WANTED = {"rows", "outputs_bc", "pair_bc"}


def judged_splits(splits: Splits, sidecar: Sidecar | None) -> tuple[str, ...]:
    """Return the splits whose images decide: validation cannot judge an artifact whose layers were chosen on it."""
    details = {} if sidecar is None else sidecar.details
    chosen_on_validation = details.get("int8") == "auto" or bool(details.get("float_layers"))
    return ("test",) if splits == "test" or chosen_on_validation else ("test", "validation")


def answered_rows(
    reference: Reference, splits: Splits, deciding: tuple[str, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows of the evaluation set that decide, and those that are answered beside them."""
    rows = np.concatenate([reference.evaluation_set.indices_of(split) for split in deciding])
    everything = np.arange(len(reference.evaluation_set.splits), dtype=np.int64)
    return rows, np.setdiff1d(everything, rows) if splits == "all" else everything[:0]


def verdict_from_answers(
    reference: Reference, result: TrialResult, artifact_problems: list[str], answers: Answers | None
) -> tuple[Verdict, Parity | None]:
    """Judge a trial by its answers, or by the contract alone where it was not run."""
    return judged(evidence_of_result(reference, result, artifact_problems, answers))


def recomputed(reference: Reference, result: TrialResult) -> TrialResult:
    """Return a result with verdict and parity computed again from its stored answers.

    Raises ArtifactError where the answers are missing or were changed. What never had any is returned as it is: a
    trial that failed or could not run, or whose artifact broke the contract.
    """
    if result.verdict is None or never_answered(result):
        return result
    answers = answers_of_result(reference, result)
    sidecar, problems = checked_artifact(reference, result.trial)
    if sidecar is not None and judged_splits(result.splits, sidecar) != result.judged_splits:
        raise ArtifactError(
            f"{result.trial.run} {result.trial.identifier} was judged on {' and '.join(result.judged_splits)}, which "
            "do not judge this artifact.",
            hint="`harness bench --force` measures again.",
        )
    verdict, parity = verdict_from_answers(reference, result, problems, answers)
    return with_verdict(result, verdict, parity)


def with_verdict(result: TrialResult, verdict: Verdict, parity: Parity | None) -> TrialResult:
    """Return a result judged anew; what is a FAIL now has no times, whatever it was when it was timed."""
    times = {"timing": None, "twin": None} if verdict.word is Word.FAIL else {}
    return result.model_copy(update={"verdict": verdict, "parity": parity, **times})


def never_answered(result: TrialResult) -> bool:
    """Tell whether a trial needs no answers: its artifact broke the contract and was not run."""
    return result.answers_sha256 is None and result.verdict is not None and result.verdict.step == "contract"


def answers_of_result(reference: Reference, result: TrialResult) -> Answers:
    """Return a trial's stored answers; raise ArtifactError where they are missing or were changed."""
    answers = stored_answers(reference.run, result)
    if answers is None or _WANTED - answers.keys():
        what = "missing or were changed" if answers is None else "not those of this version"
        raise ArtifactError(
            f"The answers of {result.trial.run} {result.trial.identifier} are {what}.",
            hint="`harness bench --force` measures again.",
        )
    return answers


def evidence_of_result(
    reference: Reference, result: TrialResult, artifact_problems: list[str], answers: Answers | None
) -> Evidence:
    """Return what the gate looks at; `answers` are None where the artifact was not run."""
    trial, evaluation_set = result.trial, reference.evaluation_set
    rows, others = answered_rows(reference, result.splits, result.judged_splits)
    count = len(rows)
    labels_b = evaluation_set.labels_b
    judging_rows = rows
    if not (labels_b[rows] >= 0).any():
        judging_rows = evaluation_set.indices_of("validation")
    problems, form = list(artifact_problems), variant_from_name(trial.form)
    golden_bc = reference.logits_bc[rows]
    pair, departures, candidate_bc = [], [], golden_bc
    repeats: dict[str, Float32s] = {}
    if answers is not None:
        assert form is not None, "an artifact without a form is not loaded"
        assert result.description is not None, "what answers was loaded"
        problems += reference.passport.problems(result.description.metadata, form)
        problems += _shape_problems(reference, rows, others, answers)
        departures = result.description.departures
        if not problems:
            pair = pair_problems(reference.passport, form, answers["pair_bc"])
            candidate_bc = answers["outputs_bc"][:count]
            repeats = _repeats(answers)
    with_probabilities = answers is not None and form is not None and form.probabilities
    return Evidence(
        class_names=reference.contract.class_names,
        label_mode=reference.contract.label_mode,
        precision=trial.precision,
        margin=result.margin,
        contract_problems=tuple(problems),
        departures=tuple(departures),
        pair_problems=tuple(pair),
        labels_b=labels_b[rows],
        golden_bc=golden_bc,
        candidate_bc=candidate_bc,
        repeats=repeats,
        outputs="probabilities" if with_probabilities else "logits",
        temperature=reference.passport.operating_point.temperature if with_probabilities else None,
        candidate_answers_b=answers["answers_b"][:count] if answers is not None and "answers_b" in answers else None,
        operating_point=reference.passport.operating_point,
        reference_labels_b=labels_b[judging_rows],
        reference_logits_bc=reference.logits_bc[judging_rows],
        other_golden_bc=reference.logits_bc[others] if len(others) else None,
        other_candidate_bc=answers["outputs_bc"][count:] if answers is not None and len(others) else None,
    )


def _shape_problems(
    reference: Reference, rows: npt.NDArray[np.int64], others: npt.NDArray[np.int64], answers: Answers
) -> list[str]:
    wanted_rows = np.concatenate([rows, others])
    if not np.array_equal(answers["rows"], wanted_rows):
        return ["the answers are to other images than the run's"]
    wanted, found = (len(wanted_rows), len(reference.contract.class_names)), answers["outputs_bc"].shape
    return [] if found == wanted else [f"the answers have the shape {found}, the run's {wanted}"]


def _repeats(answers: Answers) -> dict[str, Float32s]:
    named: dict[str, Float32s] = {}
    if ROW_REPEATS in answers:
        named[_ROWS] = answers[ROW_REPEATS]
        named["every row of a batch of it"] = answers[FIRST_REPEATS]
    for name, outputs_bc in answers.items():
        if name.startswith(BATCH_REPEATS):
            named[f"a batch of {name.removeprefix(BATCH_REPEATS)}"] = outputs_bc
    return named
