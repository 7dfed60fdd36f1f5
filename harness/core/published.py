"""The study's published results, and what must be said beside them.

Percentages are kept as printed at the source; several are truncated or contradict their own matrix, so accuracies
are recomputed from the confusion matrices.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

import numpy as np

from harness.core.cases import Case, LabelMode
from harness.core.metrics import SplitMetrics, metrics_from_answers


@cache
def _published() -> dict[str, dict[str, dict[str, dict[str, dict[str, list[list[int]]]]]]]:
    text = resources.files("harness.core").joinpath("published.json").read_text(encoding="utf-8")
    content: dict[str, dict[str, dict[str, dict[str, dict[str, list[list[int]]]]]]] = json.loads(text)
    return content


def published_metrics(case: Case) -> dict[str, SplitMetrics]:
    """Return per split the metrics recomputed from the published confusion matrix of a case."""
    confusion = _published()[f"dataset{case.dataset}"]["cases"][case.name]["confusion"]
    return {split: _metrics_from_confusion(matrix, case.class_names) for split, matrix in confusion.items()}


def _metrics_from_confusion(confusion: list[list[int]], class_names: tuple[str, ...]) -> SplitMetrics:
    counts_cc = np.array(confusion)
    labels_cc, answers_cc = np.indices(counts_cc.shape)
    repeats = counts_cc.ravel()
    metrics = metrics_from_answers(
        np.repeat(labels_cc.ravel(), repeats), np.repeat(answers_cc.ravel(), repeats), class_names
    )
    assert metrics is not None, "a published matrix is never empty"
    return metrics


def caveats(case: Case, label_mode: LabelMode, *, synthetic: bool, weights: str, imported: bool = False) -> list[str]:
    """Return what a reader must know before comparing a run of `case` with its published figures."""
    notes = []
    if synthetic:
        done = "Tested" if imported else "Trained and tested"
        notes.append(f"{done} on synthetic phantoms: the accuracies say nothing about films.")
    if imported:
        notes.append(
            "Weights trained elsewhere and imported: films tested here may have been among their training films."
        )
    if weights == "random":
        notes.append("Random initialisation; the study started from ImageNet weights.")
    if case.dataset == 2 and label_mode == "multiclass":
        notes.append("The study ran dataset-2 as a multi-label problem; its figures are not multiclass results.")
    if case.dataset == 1:
        notes.append(
            "The study's validation lies 5.5 to 6.5 points below its test in every dataset-1 case: "
            "its two splits are not exchangeable."
        )
    if case.name == "d1-resnet18-all":
        notes.append(
            "The study prints 86.53 % validation accuracy here, another case's value; its matrix gives 90.73 %."
        )
    return notes
