"""The images that int8 ranges are measured on: of the training split only, a fair share of every class, told by hash.

Images of validation or test among them would let the ranges fit the very images that judge the result, so films and
patients that also stand there are refused, even if a manifest from elsewhere says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.core.errors import ExportError, UsageError
from harness.core.files import sha256_from_text
from harness.core.metrics import UNLABELLED
from harness.data.evaluation_set import EvaluationSet

CalibrationMethod = Literal["minmax", "entropy", "percentile"]
# Below this, one odd film decides the range of a layer.
SMALLEST_CALIBRATION = 16


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How int8 ranges are found; `count` images, drawn by `seed`."""

    count: int = 128
    method: CalibrationMethod = "minmax"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < SMALLEST_CALIBRATION:
            raise UsageError(
                f"--calibration {self.count} is too small: one odd film would decide a layer's range.",
                hint=f"Give {SMALLEST_CALIBRATION} images or more; 128 is the default.",
            )


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """Rows of the evaluation set, and the hash of the films in them, whatever their order."""

    rows: npt.NDArray[np.int64]
    sha256: str


def calibration_images(evaluation_set: EvaluationSet, calibration: Calibration) -> CalibrationImages:
    """Return a stratified, seeded sample of the train split.

    Raises ExportError where the split is too small, or shares a film or a patient with validation or test.
    """
    train = evaluation_set.indices_of("train")
    train = train[evaluation_set.labels_b[train] != UNLABELLED]
    _check_apart(evaluation_set, train)
    if len(train) < calibration.count:
        raise ExportError(
            f"{calibration.count} calibration images were asked for, the train split has {len(train)} with a label.",
            hint=f"Give `--calibration {len(train)}` or fewer (at least {SMALLEST_CALIBRATION}), or prepare more "
            "training films.",
        )
    rows = _stratified(train, evaluation_set.labels_b[train], calibration)
    films = "\n".join(sorted(evaluation_set.sha256s[row] for row in rows))
    return CalibrationImages(rows=rows, sha256=sha256_from_text(films))


def _stratified(
    train: npt.NDArray[np.int64], labels_b: npt.NDArray[np.int64], calibration: Calibration
) -> npt.NDArray[np.int64]:
    """Draw from each class in proportion, by largest remainders and at least one, in the order of the rows."""
    generator = np.random.default_rng(calibration.seed)
    classes, counts = np.unique(labels_b, return_counts=True)
    exact = calibration.count * counts / counts.sum()
    shares = np.maximum(np.floor(exact).astype(np.int64), 1)
    for index in np.argsort(np.floor(exact) - exact, kind="stable"):
        shares[index] += shares.sum() < calibration.count
    while shares.sum() > calibration.count:  # Classes too rare for a share of their own got one all the same.
        shares[shares.argmax()] -= 1
    drawn = [
        generator.permutation(train[labels_b == label])[:share] for label, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _check_apart(evaluation_set: EvaluationSet, train: npt.NDArray[np.int64]) -> None:
    judging = np.concatenate([evaluation_set.indices_of("validation"), evaluation_set.indices_of("test")])
    for what, names in (("film", evaluation_set.sha256s), ("patient", evaluation_set.groups)):
        shared = {names[row] for row in train if names[row]} & {names[row] for row in judging}
        if shared:
            raise ExportError(
                f"{len(shared)} {what}s of the train split also stand in validation or test (for instance "
                f"{min(shared)[:40]}): int8 ranges would be fitted to the images that judge them.",
                hint="Prepare the data set again with `harness data prepare`, which keeps films and patients apart.",
            )
