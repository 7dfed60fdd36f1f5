"""What a finished run achieved, split by split, beside what the study published."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from harness.core.cases import case_named
from harness.core.metrics import (
    SplitMetrics,
    answers_from_probabilities,
    classification_text,
    metrics_from_answers,
    probabilities_from_logits,
)
from harness.core.published import caveats, published_metrics
from harness.core.runs import RunRecord
from harness.data.evaluation_set import EvaluationSet
from harness.data.splitting import SPLITS


class Evaluation(BaseModel):
    """The content of evaluation.json; a split without labels is absent from `ours`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint_sha256: str
    epoch: int
    best_epoch: int
    ours: dict[str, SplitMetrics]
    published: dict[str, SplitMetrics]
    caveats: tuple[str, ...]


def evaluation_from_logits(
    logits_bc: npt.NDArray[np.float32],
    evaluation_set: EvaluationSet,
    record: RunRecord,
    *,
    checkpoint_sha256: str,
    epoch: int,
    best_epoch: int,
) -> Evaluation:
    """Return the metrics of every labelled split from the golden's logits_bc."""
    identity = record.identity
    case, label_mode = case_named(identity.case), identity.label_mode
    synthetic = record.contract.synthetic
    answers_b = answers_from_probabilities(probabilities_from_logits(logits_bc, label_mode), label_mode)
    ours = {}
    for split in SPLITS:
        indices = evaluation_set.indices_of(split)
        metrics = metrics_from_answers(evaluation_set.labels_b[indices], answers_b[indices], case.class_names)
        if metrics:
            ours[split] = metrics
    return Evaluation(
        checkpoint_sha256=checkpoint_sha256,
        epoch=epoch,
        best_epoch=best_epoch,
        ours=ours,
        published=published_metrics(case),
        caveats=tuple(
            caveats(case, label_mode, synthetic=synthetic, weights=identity.weights, imported=identity.imported)
        ),
    )


def evaluation_text(evaluation: Evaluation) -> str:
    """Return the per-class tables of every split, ours and the study's, for a person."""
    parts = []
    for split in SPLITS:
        for whose, metrics in (
            ("this run", evaluation.ours.get(split)),
            ("study", evaluation.published.get(split)),
        ):
            if metrics:
                parts += [f"{split}, {whose}:", classification_text(metrics), ""]
    return "\n".join([*parts, *(f"Note: {note}" for note in evaluation.caveats)])
