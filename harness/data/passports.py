"""The passport of a run's exports, computed from its golden: export writes it into files, bench checks it there."""

from __future__ import annotations

from harness.core.contract import Contract
from harness.core.operating_point import operating_point
from harness.core.passport import Passport, golden_pair
from harness.data.evaluation_set import EvaluationSet
from harness.data.golden import Golden


def passport_of_run(
    golden: Golden, evaluation_set: EvaluationSet, contract: Contract, checkpoint_sha256: str
) -> Passport:
    """Return what every export of a checkpoint carries; temperature and threshold come from validation."""
    validation = evaluation_set.indices_of("validation")
    return Passport(
        contract=contract,
        checkpoint_sha256=checkpoint_sha256,
        operating_point=operating_point(
            golden.logits_bc[validation],
            evaluation_set.labels_b[validation],
            contract.class_names,
            contract.label_mode,
        ),
        pair=golden_pair(golden.pair_pixels_hwc, golden.pair_logits_c),
    )
