"""Whether the operating point holds: answers can stay the same while the scores move across a threshold.

The threshold was fixed on validation before anything was converted (harness/core/operating_point.py) and decides
"some finding" against "normal"; sensitivity, specificity and AUROC are those of that question.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from bench.evidence import Evidence
from bench.statistics import auroc_loss_interval, tango_interval

_NORMAL = "normal"


class Pair(BaseModel):
    """A figure of the golden and of the candidate, and the 90 % interval of the loss, golden minus candidate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: float
    candidate: float
    loss_interval_90: tuple[float, float]


class OperatingParity(BaseModel):
    """Labelled images with and without a finding. Figures at the threshold are None where none was fixed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    findings: int
    normals: int
    auroc: Pair
    threshold: float | None
    changed_at_threshold: int | None = None
    sensitivity: Pair | None = None
    specificity: Pair | None = None


def operating_parity(evidence: Evidence) -> OperatingParity | None:
    """Return the figures over the labelled images, None where they lack findings or normals, or the classes do."""
    if _NORMAL not in evidence.class_names:
        return None
    known_b = evidence.labelled_b
    finding_b = evidence.labels_b[known_b] != evidence.class_names.index(_NORMAL)
    findings = int(finding_b.sum())
    normals = len(finding_b) - findings
    if not findings or not normals:
        return None
    golden_b, candidate_b = (scores_b[known_b] for scores_b in evidence.scores())
    reference_area, area, interval = auroc_loss_interval(finding_b, golden_b, candidate_b)
    threshold = evidence.operating_point.threshold
    figures = OperatingParity(
        findings=findings,
        normals=normals,
        auroc=Pair(reference=reference_area, candidate=area, loss_interval_90=interval),
        threshold=threshold,
    )
    if threshold is None:
        return figures
    above_b, candidate_above_b = golden_b > threshold, candidate_b > threshold
    return figures.model_copy(
        update={
            "changed_at_threshold": int((above_b != candidate_above_b).sum()),
            "sensitivity": _pair(above_b[finding_b], candidate_above_b[finding_b]),
            "specificity": _pair(~above_b[~finding_b], ~candidate_above_b[~finding_b]),
        }
    )


def _pair(
    right_b: np.ndarray[tuple[int], np.dtype[np.bool_]], candidate_right_b: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> Pair:
    lost, gained = int((right_b & ~candidate_right_b).sum()), int((~right_b & candidate_right_b).sum())
    return Pair(
        reference=float(right_b.mean()),
        candidate=float(candidate_right_b.mean()),
        loss_interval_90=tango_interval(lost, gained, len(right_b)),
    )
