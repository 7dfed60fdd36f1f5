"""What is fixed on validation and travels with a model: the temperature of its probabilities, and a threshold.

Temperature: Guo et al. 2017 (arXiv 1706.04599), softmax(z / T) with the T of least log loss; it changes no answer of
a multiclass model, only how sure it says it is. Threshold: Youden 1950, the one of largest sensitivity + specificity
- 1 for "some finding" against "normal". Neither ever sees the test split. Shapes: b images, c classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from harness.core.cases import LabelMode
from harness.core.metrics import UNLABELLED, probabilities_from_logits

_NORMAL = "normal"
# Fewer films than this say nothing about a temperature; beyond these bounds something else is wrong.
_SMALLEST_VALIDATION = 30
_LARGEST_LOG_TEMPERATURE = float(np.log(10.0))


class OperatingPoint(BaseModel):
    """`temperature` is None where there is none. `threshold` is for the score of `finding_scores`, None likewise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float | None = None
    threshold: float | None = None
    validation_images: int = 0


def operating_point(
    logits_bc: npt.NDArray[np.float32],
    labels_b: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
    label_mode: LabelMode,
) -> OperatingPoint:
    """Return what the validation split fixes; labels may be missing. Rounded, so that it is the same everywhere."""
    known_b = labels_b != UNLABELLED
    logits_bc, labels_b = logits_bc[known_b], labels_b[known_b]
    if len(labels_b) < _SMALLEST_VALIDATION or not np.isfinite(logits_bc).all():
        return OperatingPoint(validation_images=len(labels_b))
    temperature = _temperature(logits_bc, labels_b) if label_mode == "multiclass" else None
    probabilities_bc = scaled_probabilities(logits_bc, label_mode, temperature)
    return OperatingPoint(
        temperature=temperature,
        threshold=_threshold(finding_scores(probabilities_bc, class_names, label_mode), labels_b, class_names),
        validation_images=len(labels_b),
    )


def scaled_probabilities(
    logits_bc: npt.NDArray[np.floating], label_mode: LabelMode, temperature: float | None
) -> npt.NDArray[np.float64]:
    """Return the probabilities_bc of logits at a temperature (None: 1)."""
    return probabilities_from_logits(logits_bc.astype(np.float64) / (temperature or 1.0), label_mode)


def finding_scores(
    probabilities_bc: npt.NDArray[np.floating], class_names: tuple[str, ...], label_mode: LabelMode
) -> npt.NDArray[np.float64]:
    """Return how sure a model is of some finding: 1 - p(normal), or the surest finding of independent labels."""
    normal = class_names.index(_NORMAL)
    if label_mode == "multiclass":
        return np.asarray(1 - probabilities_bc[:, normal], dtype=np.float64)
    return np.asarray(np.delete(probabilities_bc, normal, axis=1).max(axis=1), dtype=np.float64)


def _temperature(logits_bc: npt.NDArray[np.float32], labels_b: npt.NDArray[np.int64]) -> float | None:
    from scipy import optimize, special

    if (logits_bc.argmax(axis=1) == labels_b).all():
        return None  # The loss falls to 0 with T, and where float64 stops seeing it fall means nothing.
    wide_bc = logits_bc.astype(np.float64)

    def log_loss(log_temperature: float) -> float:
        log_p_bc = special.log_softmax(wide_bc / np.exp(log_temperature), axis=1)
        return float(-log_p_bc[np.arange(len(labels_b)), labels_b].mean())

    bound = _LARGEST_LOG_TEMPERATURE
    found = optimize.minimize_scalar(log_loss, bounds=(-bound, bound), method="bounded")
    if abs(float(found.x)) > 0.99 * bound:  # No least loss inside: as good as chance, or worse.
        return None
    return round(float(np.exp(found.x)), 3)


def _threshold(
    scores_b: npt.NDArray[np.float64], labels_b: npt.NDArray[np.int64], class_names: tuple[str, ...]
) -> float | None:
    """Return a number between the two neighbouring scores that the best threshold separates, None where none helps."""
    finding_b = labels_b != class_names.index(_NORMAL)
    if finding_b.all() or not finding_b.any():
        return None
    distinct, at_b = np.unique(scores_b, return_inverse=True)
    if len(distinct) < 2:
        return None
    middles = (distinct[1:] + distinct[:-1]) / 2
    # Counted score by score: a table of scores by thresholds has 100 million cells for 10,000 films. A middle of two
    # neighbours that float64 cannot tell apart is the lower or the upper of them, so it is compared and not taken.
    first_above_m = np.searchsorted(distinct, middles, side="right")

    def share_above_m(chosen_b: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        count_d = np.bincount(at_b[chosen_b], minlength=len(distinct))
        above_d = np.append(np.cumsum(count_d[::-1])[::-1], 0)
        return np.asarray(above_d[first_above_m] / chosen_b.sum())

    youden_m = share_above_m(finding_b) - share_above_m(~finding_b)
    best = int(youden_m.argmax())
    if youden_m[best] <= 0:
        return None
    below, above = float(distinct[best]), float(distinct[best + 1])
    # Scores of a sure model lie closer together than six digits tell apart.
    shortened = (round(float(middles[best]), digits) for digits in range(6, 17))
    return next((each for each in shortened if below <= each < above), float(middles[best]))
