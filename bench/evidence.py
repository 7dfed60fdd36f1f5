"""What the gate looks at: the answers of a candidate beside the golden's, on the images that decide.

Shapes: b images, c classes, k repetitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.core.cases import LabelMode
from harness.core.metrics import UNLABELLED, answers_from_probabilities
from harness.core.operating_point import OperatingPoint, finding_scores, scaled_probabilities

Integers = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a verdict depends on.

    `repeats` are answers to the first images again, in other rows and in batches of other sizes: a name in words, and
    outputs [b, c] or [k, b, c]. Where a candidate gives probabilities, they are compared with the golden's at the same
    temperature, and `candidate_answers_b` are the answers it gives beside them. `reference_labels_b` and
    `reference_logits_bc` judge the reference: the judged images, or, where those have no labels, validation. The
    `other_` answers are to images that add evidence of agreement and decide nothing. `reference_trusted`: somebody
    answers for the reference, because no image has a label (bench/asserting.py); `harness bench` never says so.
    """

    class_names: tuple[str, ...]
    label_mode: LabelMode
    precision: str
    margin: float
    contract_problems: tuple[str, ...]
    departures: tuple[str, ...]
    pair_problems: tuple[str, ...] = ()
    labels_b: Integers
    golden_bc: Float32s
    candidate_bc: Float32s
    repeats: Mapping[str, Float32s] = field(default_factory=lambda: MappingProxyType({}))
    outputs: Literal["logits", "probabilities"] = "logits"
    temperature: float | None = None
    candidate_answers_b: Integers | None = None
    operating_point: OperatingPoint = field(default_factory=OperatingPoint)
    reference_labels_b: Integers
    reference_logits_bc: Float32s
    reference_trusted: bool = False
    other_golden_bc: Float32s | None = None
    other_candidate_bc: Float32s | None = None

    @cached_property
    def answers(self) -> Answers:
        """Probabilities and answers of both, derived once."""
        golden_bc = scaled_probabilities(self.golden_bc, self.label_mode, self.temperature)
        candidate_bc = self.candidate_probabilities(self.candidate_bc)
        return Answers(
            golden_bc=golden_bc,
            candidate_bc=candidate_bc,
            golden_b=answers_from_probabilities(golden_bc, self.label_mode),
            candidate_b=answers_from_probabilities(candidate_bc, self.label_mode),
        )

    @property
    def labelled_b(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.labels_b != UNLABELLED)

    def candidate_probabilities(self, outputs_bc: Float32s) -> Floats:
        """Return the probabilities_bc that outputs of the candidate stand for."""
        if self.outputs == "probabilities":
            return outputs_bc.astype(np.float64)
        return scaled_probabilities(outputs_bc, self.label_mode, self.temperature)

    def scores(self) -> tuple[Floats, Floats]:
        """Return how sure golden and candidate are of some finding, in the units of the operating point's threshold."""
        temperature = self.operating_point.temperature
        golden_bc = scaled_probabilities(self.golden_bc, self.label_mode, temperature)
        if self.outputs == "probabilities":
            candidate_bc = self.candidate_bc.astype(np.float64)
        else:
            candidate_bc = scaled_probabilities(self.candidate_bc, self.label_mode, temperature)
        return (
            finding_scores(golden_bc, self.class_names, self.label_mode),
            finding_scores(candidate_bc, self.class_names, self.label_mode),
        )


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Probabilities_bc and the class index answered, of golden and candidate."""

    golden_bc: Floats
    candidate_bc: Floats
    golden_b: Integers
    candidate_b: Integers
