"""Every figure of a candidate against the golden; the gate (bench/gate.py) decides on them, the report prints them.

Shapes: b images, c classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from bench.evidence import Evidence, Float32s, Floats, Integers
from bench.operating import OperatingParity, operating_parity
from bench.statistics import (
    brier_score,
    expected_calibration_error,
    kl_divergence,
    largest_share,
    macro_f1,
    macro_f1_loss_interval,
    mcnemar_p,
    tango_interval,
    tango_p,
    wilson_interval,
)
from harness.core.metrics import answers_from_probabilities
from harness.core.operating_point import scaled_probabilities


class ClassParity(BaseModel):
    """One class: its labelled images, of which the candidate lost and gained some, and recall of both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    images: int
    lost: int
    gained: int
    reference_recall: float
    recall: float
    recall_loss_interval_90: tuple[float, float]


class Parity(BaseModel):
    """Candidate against golden on the judged images; fractions 0..1. Figures that need labels are None without.

    `repeats_max_abs_dp` says how far an image's probabilities move in another row or batch size. `other_images` are
    those beyond the judged splits, with `other_changed_answers` among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    labelled: int
    changed_answers: int
    agreement: float
    changed_share_bound: float
    max_abs_dp: float
    mean_abs_dp: float
    kl: float
    repeats_max_abs_dp: dict[str, float]
    other_images: int = 0
    other_changed_answers: int = 0
    reference_accuracy: float | None = None
    accuracy: float | None = None
    reference_accuracy_interval_95: tuple[float, float] | None = None
    accuracy_interval_95: tuple[float, float] | None = None
    # Of the labelled images: both right, only the reference, only the candidate, neither.
    table: tuple[int, int, int, int] | None = None
    mcnemar_p: float | None = None
    loss_interval_90: tuple[float, float] | None = None
    non_inferiority_p: float | None = None
    reference_macro_f1: float | None = None
    macro_f1: float | None = None
    macro_f1_loss_interval_90: tuple[float, float] | None = None
    reference_brier: float | None = None
    brier: float | None = None
    reference_ece: float | None = None
    ece: float | None = None
    classes: tuple[ClassParity, ...] = ()
    operating: OperatingParity | None = None


def parity_from_evidence(evidence: Evidence) -> Parity:
    """Return the figures; the answers of both must be numbers."""
    answers = evidence.answers
    difference_bc = np.abs(answers.golden_bc - answers.candidate_bc)
    count = len(difference_bc)
    changed = int((answers.golden_b != answers.candidate_b).sum())
    figures: dict[str, object] = {}
    if evidence.other_golden_bc is not None and evidence.other_candidate_bc is not None:
        figures |= _other_figures(evidence, evidence.other_golden_bc, evidence.other_candidate_bc)
    if evidence.labelled_b.any():
        figures |= _labelled_figures(evidence)
    return Parity(
        images=count,
        labelled=int(evidence.labelled_b.sum()),
        changed_answers=changed,
        agreement=1 - changed / count,
        changed_share_bound=largest_share(changed, count),
        max_abs_dp=float(difference_bc.max()),
        mean_abs_dp=float(difference_bc.mean()),
        kl=kl_divergence(answers.golden_bc, answers.candidate_bc, evidence.label_mode),
        repeats_max_abs_dp=_repeats(evidence, evidence.repeats),
    ).model_copy(update=figures)


def _repeats(evidence: Evidence, repeats: Mapping[str, Float32s]) -> dict[str, float]:
    found = {}
    answered_bc = evidence.answers.candidate_bc
    if evidence.other_candidate_bc is not None:  # A batch may be larger than the splits that decide.
        answered_bc = np.concatenate([answered_bc, evidence.candidate_probabilities(evidence.other_candidate_bc)])
    for name, outputs in repeats.items():
        again_kbc = outputs.reshape(-1, *outputs.shape[-2:])
        first_bc = answered_bc[: again_kbc.shape[1]]
        # NaN must not hide here: a comparison with NaN is false, and so large a number is above any limit.
        again = evidence.candidate_probabilities(again_kbc.reshape(-1, again_kbc.shape[-1])).reshape(again_kbc.shape)
        found[name] = float(np.nan_to_num(np.abs(again - first_bc), nan=1e9).max())
    return found


def _other_figures(evidence: Evidence, golden_bc: Float32s, candidate_bc: Float32s) -> dict[str, object]:
    golden_b = answers_from_probabilities(
        scaled_probabilities(golden_bc, evidence.label_mode, evidence.temperature), evidence.label_mode
    )
    candidate_b = answers_from_probabilities(evidence.candidate_probabilities(candidate_bc), evidence.label_mode)
    return {"other_images": len(golden_b), "other_changed_answers": int((golden_b != candidate_b).sum())}


def _labelled_figures(evidence: Evidence) -> dict[str, object]:
    answers, known_b = evidence.answers, evidence.labelled_b
    labels_b = evidence.labels_b[known_b]
    golden_b, candidate_b = answers.golden_b[known_b], answers.candidate_b[known_b]
    golden_bc, candidate_bc = answers.golden_bc[known_b], answers.candidate_bc[known_b]
    right_b, candidate_right_b = golden_b == labels_b, candidate_b == labels_b
    both, neither = int((right_b & candidate_right_b).sum()), int((~right_b & ~candidate_right_b).sum())
    lost, gained = int((right_b & ~candidate_right_b).sum()), int((~right_b & candidate_right_b).sum())
    count, class_count = len(labels_b), len(evidence.class_names)
    return {
        "reference_accuracy": float(right_b.mean()),
        "accuracy": float(candidate_right_b.mean()),
        "reference_accuracy_interval_95": wilson_interval(int(right_b.sum()), count),
        "accuracy_interval_95": wilson_interval(int(candidate_right_b.sum()), count),
        "table": (both, lost, gained, neither),
        "mcnemar_p": mcnemar_p(lost, gained),
        "loss_interval_90": tango_interval(lost, gained, count),
        "non_inferiority_p": tango_p(lost, gained, count, evidence.margin),
        "reference_macro_f1": macro_f1(labels_b, golden_b),
        "macro_f1": macro_f1(labels_b, candidate_b),
        "macro_f1_loss_interval_90": macro_f1_loss_interval(labels_b, golden_b, candidate_b, class_count),
        "reference_brier": brier_score(golden_bc, labels_b),
        "brier": brier_score(candidate_bc, labels_b),
        "reference_ece": expected_calibration_error(_confidence(golden_bc, golden_b), right_b),
        "ece": expected_calibration_error(_confidence(candidate_bc, candidate_b), candidate_right_b),
        "classes": tuple(
            _class_parity(name, labels_b == index, golden_b == index, candidate_b == index)
            for index, name in enumerate(evidence.class_names)
            if (labels_b == index).any()
        ),
        "operating": operating_parity(evidence),
    }


def _confidence(probabilities_bc: Floats, answers_b: Integers) -> Floats:
    """Return how sure a model is of the answer it gives."""
    return np.asarray(probabilities_bc[np.arange(len(answers_b)), answers_b], dtype=np.float64)


def _class_parity(
    name: str,
    of_class_b: np.ndarray[tuple[int], np.dtype[np.bool_]],
    golden_b: np.ndarray[tuple[int], np.dtype[np.bool_]],
    candidate_b: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> ClassParity:
    count = int(of_class_b.sum())
    lost = int((of_class_b & golden_b & ~candidate_b).sum())
    gained = int((of_class_b & ~golden_b & candidate_b).sum())
    return ClassParity(
        name=name,
        images=count,
        lost=lost,
        gained=gained,
        reference_recall=float(golden_b[of_class_b].mean()),
        recall=float(candidate_b[of_class_b].mean()),
        recall_loss_interval_90=tango_interval(lost, gained, count),
    )


def reference_p(right: int, count: int, commonest: int) -> float:
    """Return the one-sided exact p-value of "no better than always answering the commonest class"."""
    share = commonest / count
    return float(stats.binomtest(right, count, share, alternative="greater").pvalue) if share < 1 else 1.0
