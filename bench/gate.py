"""The gate: may this converted model be shipped in place of its checkpoint?

Checked in this order; the first that fires decides. docs/measuring.md gives the reasons and error rates.

1. FAIL, contract     preprocessing, class names, parents or hashes do not match
2. FAIL, numeric      NaN or infinity; the precision's own rule, on answers and on how sure they are; an answer that
                      depends on the row or the size of the batch; the runtime did something else than asked
3. NO VERDICT         the reference is no better than always answering the commonest class
4. FAIL, accuracy     the loss is shown to exceed the margin, or macro-F1's loss twice the margin, or a class
                      with 30 images or more lost more than 5 points of recall
5. PASS               the loss is shown to be below the margin (Tango), or so few answers changed that it must be
6. INCONCLUSIVE       everything else, with what would decide it

Shapes: b images, c classes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from bench.evidence import Evidence
from bench.parity import Parity, parity_from_evidence, reference_p
from bench.statistics import images_for_margin, log_odds_scale, tango_p
from harness.core.metrics import UNLABELLED, answers_from_probabilities, probabilities_from_logits
from harness.core.variants import SMALLEST_AGREEMENT

_SIGNIFICANCE = 0.05
_TIE = 1e-3
_LARGEST_FP32_DP = 1e-3
# Honest int8 files of this project's networks stay within 0.003 (docs/measuring.md, Mutants).
_LARGEST_SCALE_ERROR = 0.05
_RECALL_DROP = 0.05
_SMALLEST_CLASS = 30


class Word(StrEnum):
    """The verdict: PASS, ship; FAIL, do not ship; the rest, not enough evidence."""

    PASS = "PASS"  # noqa: S105  # no password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NO_VERDICT = "NO VERDICT"


class Verdict(BaseModel):
    """The word, the step of the gate that decided, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    word: Word
    step: Literal["contract", "numeric", "reference", "accuracy", "parity", "evidence"]
    reason: str


def judged(evidence: Evidence) -> tuple[Verdict, Parity | None]:
    """Return the verdict and the figures behind it; no figures where the answers are not numbers."""
    if evidence.contract_problems:
        return _fail("contract", "; ".join(evidence.contract_problems)), None
    given = [evidence.candidate_bc] + [each for each in (evidence.other_candidate_bc,) if each is not None]
    bad = sum(int((~np.isfinite(each_bc).all(axis=1)).sum()) for each_bc in given)
    if bad:
        count = sum(len(each_bc) for each_bc in given)
        return _fail("numeric", f"NaN or infinity in the answers to {bad} of {count} images"), None
    if not (np.isfinite(evidence.golden_bc).all() and np.isfinite(evidence.reference_logits_bc).all()):
        reason = "the checkpoint's own answers hold NaN or infinity"
        return Verdict(word=Word.NO_VERDICT, step="reference", reason=reason), None
    parity = parity_from_evidence(evidence)
    numeric = _numeric_problem(evidence, parity)
    if numeric:
        return _fail("numeric", numeric), parity
    reference = _reference_problem(evidence)
    if reference:
        return Verdict(word=Word.NO_VERDICT, step="reference", reason=reference), parity
    accuracy = _accuracy_problem(evidence, parity)
    if accuracy:
        return _fail("accuracy", accuracy), parity
    return _evidence_verdict(evidence, parity), parity


def _fail(step: Literal["contract", "numeric", "accuracy"], reason: str) -> Verdict:
    return Verdict(word=Word.FAIL, step=step, reason=reason)


def _numeric_problem(evidence: Evidence, parity: Parity) -> str | None:
    if evidence.departures:
        return f"not what was asked for: {'; '.join(evidence.departures)}"
    if evidence.pair_problems:
        return "; ".join(evidence.pair_problems)
    if evidence.outputs == "probabilities":
        problem = _output_problem(evidence)
        if problem:
            return problem
    for where, largest in parity.repeats_max_abs_dp.items():
        if largest > _repeat_limit(evidence.precision):
            return f"an image's probabilities move by {largest:.2g} in {where}"
    if evidence.precision != "fp32":
        smallest = SMALLEST_AGREEMENT[evidence.precision]
        if parity.agreement < smallest:
            return (
                f"{100 * parity.agreement:.2f} % of answers agree, {evidence.precision} needs {100 * smallest:.1f} % "
                f"(up to {100 * parity.changed_share_bound:.2f} % may change)"
            )
        return _scale_problem(evidence)
    if parity.max_abs_dp > _LARGEST_FP32_DP:
        return f"a probability differs by {parity.max_abs_dp:.3g}, fp32 allows {_LARGEST_FP32_DP:g}"
    answers = evidence.answers
    sorted_bc = np.sort(answers.golden_bc, axis=1)
    tied_b = sorted_bc[:, -1] - sorted_bc[:, -2] < _TIE
    # Multi-label answers also turn where a probability crosses one half.
    if evidence.label_mode == "multilabel":
        tied_b |= (np.abs(answers.golden_bc - 0.5) < _TIE).any(axis=1)
    changed = int(((answers.golden_b != answers.candidate_b) & ~tied_b).sum())
    return f"{changed} answers changed outside ties, fp32 allows none" if changed else None


def _scale_problem(evidence: Evidence) -> str | None:
    """Return what is wrong where the answers hold, and how sure they are does not: a temperature not the run's."""
    answers = evidence.answers
    scale = log_odds_scale(answers.golden_bc, answers.candidate_bc, evidence.label_mode)
    if abs(scale - 1) <= _LARGEST_SCALE_ERROR:
        return None
    return f"its log-odds are {scale:.2f} times the checkpoint's: another temperature, or probabilities made twice"


def _output_problem(evidence: Evidence) -> str | None:
    """Return what is wrong with outputs that claim to be probabilities and answers."""
    answers = evidence.answers
    candidate_bc = answers.candidate_bc
    if candidate_bc.min() < 0 or candidate_bc.max() > 1:
        return f"its probabilities reach from {candidate_bc.min():.3g} to {candidate_bc.max():.3g}"
    if evidence.label_mode == "multiclass":
        sum_error = float(np.abs(candidate_bc.sum(axis=1) - 1).max())
        if sum_error > _LARGEST_FP32_DP:
            return f"its probabilities of an image add up to 1 within {sum_error:.3g} only"
    if evidence.candidate_answers_b is None:
        return "it gives no answers beside its probabilities"
    other = int((evidence.candidate_answers_b != answers.candidate_b).sum())
    return f"its answers to {other} images are not those of its own probabilities" if other else None


def _repeat_limit(precision: str) -> float:
    # Kernels may add in another order for another row or size; lower precisions round more coarsely.
    return _LARGEST_FP32_DP if precision == "fp32" else 0.02


def _reference_problem(evidence: Evidence) -> str | None:
    known_b = evidence.reference_labels_b != UNLABELLED
    labels_b = evidence.reference_labels_b[known_b]
    if not len(labels_b) and evidence.reference_trusted:
        constant = len(np.unique(evidence.answers.golden_b)) == 1
        return "the reference gives every image the same answer: agreement with it shows nothing" if constant else None
    if not len(labels_b):
        return "neither the judged splits nor validation have labels to judge the reference by"
    probabilities_bc = probabilities_from_logits(evidence.reference_logits_bc[known_b], evidence.label_mode)
    right = int((answers_from_probabilities(probabilities_bc, evidence.label_mode) == labels_b).sum())
    commonest = int(np.bincount(labels_b).max())
    p = reference_p(right, len(labels_b), commonest)
    if p < _SIGNIFICANCE:
        return None
    return (
        f"the checkpoint itself answers {right} of {len(labels_b)} rightly, always answering the commonest class "
        f"would give {commonest}: agreement with it shows nothing"
    )


def _accuracy_problem(evidence: Evidence, parity: Parity) -> str | None:
    if parity.loss_interval_90 is None or parity.macro_f1_loss_interval_90 is None:
        return None
    points = 100 * evidence.margin
    if parity.loss_interval_90[0] > evidence.margin:
        return f"accuracy is at least {100 * parity.loss_interval_90[0]:.2f} points lower, the margin is {points:g}"
    if parity.macro_f1_loss_interval_90[0] > 2 * evidence.margin:
        loss = 100 * parity.macro_f1_loss_interval_90[0]
        return f"macro-F1 is at least {loss:.2f} points lower, twice the margin is {2 * points:g}"
    for each in parity.classes:
        low = each.recall_loss_interval_90[0]
        if each.images >= _SMALLEST_CLASS and low > _RECALL_DROP:
            return f"recall of {each.name} is at least {100 * low:.1f} points lower, 5 are allowed"
    return None


def _evidence_verdict(evidence: Evidence, parity: Parity) -> Verdict:
    margin, points = evidence.margin, 100 * evidence.margin
    f1_interval = parity.macro_f1_loss_interval_90
    f1_holds = f1_interval is None or f1_interval[1] <= 2 * margin
    changed = f"{parity.changed_answers} of {parity.images} answers changed"
    if f1_holds and parity.changed_share_bound <= margin:
        bound = 100 * parity.changed_share_bound
        return _passed(f"{changed}, so at most {bound:.2f} % change (95 %), margin {points:g} points")
    p = _non_inferiority_p(evidence, parity)
    if f1_holds and p is not None and p < _SIGNIFICANCE:
        return _passed(f"{changed}; loss below {points:g} points with p = {p:.3g} (Tango)")
    if not f1_holds and f1_interval is not None:
        reason = f"macro-F1 may be {100 * f1_interval[1]:.2f} points lower, twice the margin is {2 * points:g}"
    else:
        smallest = parity.changed_share_bound
        if parity.loss_interval_90 is not None:
            smallest = min(smallest, parity.loss_interval_90[1])
        reason = f"{changed}; this split can show no loss below {100 * smallest:.2f} points"
    needed = images_for_margin(margin, parity.changed_answers / parity.images)
    remedy = f"about {needed} test images would decide at a margin of {points:g} points"
    if needed <= parity.images:  # They would, were the true loss 0; so many are there already.
        remedy = f"{parity.images} images did not decide: the true loss may be near the margin of {points:g} points"
    return Verdict(word=Word.INCONCLUSIVE, step="evidence", reason=f"{reason}; {remedy}")


def _non_inferiority_p(evidence: Evidence, parity: Parity) -> float | None:
    """Return the p-value that has to be small, None without labels.

    Where some images have no label, those that have one are no sample of the others (they may be another split), so
    the loss must be shown twice: on the labelled, and on all with every changed answer without label taken for lost.
    """
    if parity.non_inferiority_p is None or parity.table is None or parity.labelled == parity.images:
        return parity.non_inferiority_p
    _, lost, gained, _ = parity.table
    answers = evidence.answers
    unknown = int(((answers.golden_b != answers.candidate_b) & ~evidence.labelled_b).sum())
    return max(parity.non_inferiority_p, tango_p(lost + unknown, gained, parity.images, evidence.margin))


def _passed(reason: str) -> Verdict:
    return Verdict(word=Word.PASS, step="parity", reason=reason)
