"""From logits to answers, and from answers to the figures a classifier is judged by.

Shapes: b images, c classes. Probabilities are softmax in multiclass mode and independent sigmoids in multilabel
mode. The multilabel decoding is the study's own: the first class, in index order, with p > 0.5, else the largest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from harness.core.cases import LabelMode

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]
UNLABELLED = -1


def probabilities_from_logits(logits_bc: Floats, label_mode: LabelMode) -> npt.NDArray[np.float64]:
    """Return probabilities_bc in float64; raises nothing for NaN or infinity, which stay visible as NaN."""
    from scipy import special

    with np.errstate(all="ignore"):
        wide_bc = logits_bc.astype(np.float64)
        result = special.softmax(wide_bc, axis=1) if label_mode == "multiclass" else special.expit(wide_bc)
    return np.asarray(result, dtype=np.float64)


def answers_from_probabilities(probabilities_bc: Floats, label_mode: LabelMode) -> npt.NDArray[np.int64]:
    """Return the class index answered for each image."""
    best_b = probabilities_bc.argmax(axis=1)
    if label_mode == "multiclass":
        return np.asarray(best_b, dtype=np.int64)
    above_bc = probabilities_bc > 0.5
    return np.asarray(np.where(above_bc.any(axis=1), above_bc.argmax(axis=1), best_b), dtype=np.int64)


class ClassMetrics(BaseModel):
    """One class: fractions 0..1 and the number of images that carry it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: float
    recall: float
    f1: float
    support: int


class SplitMetrics(BaseModel):
    """One split: fractions 0..1; `confusion` has actual classes as rows and answers as columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    commonest_class_share: float
    classes: dict[str, ClassMetrics]
    confusion: list[list[int]]


def metrics_from_answers(labels_b: Integers, answers_b: Integers, class_names: tuple[str, ...]) -> SplitMetrics | None:
    """Return the metrics over the labelled images, or None where no image has a label.

    Per-class figures are scikit-learn's, 0 where a class was never answered.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    known_b = labels_b != UNLABELLED
    labels_b, answers_b = labels_b[known_b], answers_b[known_b]
    if labels_b.size == 0:
        return None
    indices = list(range(len(class_names)))
    confusion_cc = confusion_matrix(labels_b, answers_b, labels=indices)
    precision_c, recall_c, f1_c, support_c = precision_recall_fscore_support(
        labels_b, answers_b, labels=indices, zero_division=0
    )
    present_c = support_c > 0
    return SplitMetrics(
        images=int(labels_b.size),
        accuracy=float((labels_b == answers_b).mean()),
        # scikit-learn's balanced accuracy is the mean recall over the classes that occur.
        balanced_accuracy=float(recall_c[present_c].mean()),
        macro_f1=float(f1_c.mean()),
        commonest_class_share=float(support_c.max() / labels_b.size),
        classes={
            name: ClassMetrics(
                precision=float(precision_c[i]),
                recall=float(recall_c[i]),
                f1=float(f1_c[i]),
                support=int(support_c[i]),
            )
            for i, name in enumerate(class_names)
        },
        confusion=confusion_cc.tolist(),
    )


def classification_text(metrics: SplitMetrics) -> str:
    """Return the per-class table in the layout of scikit-learn's `classification_report`."""
    width = max(len(name) for name in (*metrics.classes, "weighted avg"))
    lines = [f"{'':>{width}} {'precision':>10} {'recall':>10} {'f1-score':>10} {'support':>10}", ""]

    def row(name: str, values: tuple[float, float, float], support: int) -> str:
        figures = " ".join(f"{value:>10.2f}" for value in values)
        return f"{name:>{width}} {figures} {support:>10}"

    classes = list(metrics.classes.items())
    lines += [row(name, (each.precision, each.recall, each.f1), each.support) for name, each in classes]
    lines += ["", f"{'accuracy':>{width}} {'':>10} {'':>10} {metrics.accuracy:>10.2f} {metrics.images:>10}"]
    table = np.array([(each.precision, each.recall, each.f1) for _, each in classes])
    support = np.array([each.support for _, each in classes])
    for name, weights in (("macro avg", np.ones(len(classes))), ("weighted avg", support)):
        mean = np.average(table, axis=0, weights=weights)
        lines.append(row(name, (mean[0], mean[1], mean[2]), metrics.images))
    return "\n".join(lines)
