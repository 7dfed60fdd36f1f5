"""Every figure beside the gate's words, held against another library or a computation by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, f1_score, recall_score, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from bench.evidence import Evidence
from bench.parity import Parity, parity_from_evidence
from harness.core.operating_point import OperatingPoint

Array = npt.NDArray[Any]
_NAMES = ("covid", "normal", "pneumonia")


def _softmax(logits_bc: Array) -> npt.NDArray[np.float64]:
    shares_bc = np.exp(logits_bc.astype(np.float64) - logits_bc.max(axis=1, keepdims=True))
    return np.asarray(shares_bc / shares_bc.sum(axis=1, keepdims=True))


def _noisy(count: int = 600, noise: float = 0.8, seed: int = 3) -> tuple[Array, Array, Array]:
    """Labels, and logits of a fair reference and of a candidate that is a little worse."""
    generator = np.random.default_rng(seed)
    labels_b = generator.integers(0, 3, count)
    golden_bc = generator.normal(size=(count, 3)) + 1.5 * np.eye(3)[labels_b]
    candidate_bc = golden_bc + noise * generator.normal(size=(count, 3))
    return labels_b, golden_bc.astype(np.float32), candidate_bc.astype(np.float32)


def _evidence(labels_b: Array, golden_bc: Array, candidate_bc: Array, **changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "class_names": _NAMES,
        "label_mode": "multiclass",
        "precision": "int8",
        "margin": 0.01,
        "contract_problems": (),
        "departures": (),
        "labels_b": labels_b,
        "golden_bc": golden_bc,
        "candidate_bc": candidate_bc,
        "reference_labels_b": labels_b,
        "reference_logits_bc": golden_bc,
    }
    return Evidence(**(values | changes))


@pytest.fixture(scope="module")
def noisy() -> tuple[Array, Array, Array, Parity]:
    labels_b, golden_bc, candidate_bc = _noisy()
    return labels_b, golden_bc, candidate_bc, parity_from_evidence(_evidence(labels_b, golden_bc, candidate_bc))


def test_accuracies_and_their_intervals_are_statsmodels_wilson(noisy: tuple[Array, Array, Array, Parity]) -> None:
    labels_b, golden_bc, candidate_bc, parity = noisy
    for logits_bc, share, interval in (
        (golden_bc, parity.reference_accuracy, parity.reference_accuracy_interval_95),
        (candidate_bc, parity.accuracy, parity.accuracy_interval_95),
    ):
        right = int((logits_bc.argmax(axis=1) == labels_b).sum())
        assert share == pytest.approx(right / 600)
        assert interval == pytest.approx(proportion_confint(right, 600, method="wilson"))


def test_the_table_and_mcnemars_exact_p_are_those_of_the_pairs(noisy: tuple[Array, Array, Array, Parity]) -> None:
    labels_b, golden_bc, candidate_bc, parity = noisy
    right_b, candidate_right_b = golden_bc.argmax(axis=1) == labels_b, candidate_bc.argmax(axis=1) == labels_b
    lost, gained = int((right_b & ~candidate_right_b).sum()), int((~right_b & candidate_right_b).sum())
    assert parity.table is not None
    assert parity.table[1:3] == (lost, gained)
    assert lost > gained > 0
    # Exact McNemar is the two-sided sign test of the discordant pairs.
    assert parity.mcnemar_p == pytest.approx(stats.binomtest(lost, lost + gained).pvalue)
    assert parity.mcnemar_p == pytest.approx(mcnemar([[0, lost], [gained, 0]], exact=True).pvalue)


def test_macro_f1_and_recalls_are_scikit_learns(noisy: tuple[Array, Array, Array, Parity]) -> None:
    labels_b, golden_bc, candidate_bc, parity = noisy
    golden_b, candidate_b = golden_bc.argmax(axis=1), candidate_bc.argmax(axis=1)
    assert parity.reference_macro_f1 == pytest.approx(f1_score(labels_b, golden_b, average="macro"))
    assert parity.macro_f1 == pytest.approx(f1_score(labels_b, candidate_b, average="macro"))
    recalls = zip(
        recall_score(labels_b, golden_b, average=None), recall_score(labels_b, candidate_b, average=None), strict=True
    )
    for each, (reference, candidate) in zip(parity.classes, recalls, strict=True):
        assert (each.reference_recall, each.recall) == pytest.approx((reference, candidate))
        assert (each.lost - each.gained) / each.images == pytest.approx(reference - candidate)
        low, high = each.recall_loss_interval_90
        assert low <= reference - candidate <= high


def test_brier_is_scikit_learns_and_ece_torchmetrics(noisy: tuple[Array, Array, Array, Parity]) -> None:
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    labels_b, golden_bc, candidate_bc, parity = noisy
    for logits_bc, brier, ece in (
        (golden_bc, parity.reference_brier, parity.reference_ece),
        (candidate_bc, parity.brier, parity.ece),
    ):
        shares_bc = _softmax(logits_bc)
        assert brier == pytest.approx(brier_score_loss(labels_b, shares_bc, labels=[0, 1, 2], scale_by_half=False))
        library = classification.MulticlassCalibrationError(num_classes=3, n_bins=15, norm="l1")
        wanted = float(library(torch.from_numpy(shares_bc), torch.from_numpy(labels_b)))
        assert ece == pytest.approx(wanted, abs=1e-6)


def test_divergence_is_scipys_and_independent_labels_add_up(noisy: tuple[Array, Array, Array, Parity]) -> None:
    labels_b, golden_bc, candidate_bc, parity = noisy
    assert parity.kl == pytest.approx(stats.entropy(_softmax(golden_bc), _softmax(candidate_bc), axis=1).mean())
    multilabel = parity_from_evidence(_evidence(labels_b, golden_bc, candidate_bc, label_mode="multilabel"))
    golden, candidate = 1 / (1 + np.exp(-golden_bc.astype(float))), 1 / (1 + np.exp(-candidate_bc.astype(float)))
    pairs = stats.entropy(np.stack([golden, 1 - golden]), np.stack([candidate, 1 - candidate]), axis=0)
    assert multilabel.kl == pytest.approx(pairs.sum(axis=1).mean())


def test_a_probability_that_became_zero_leaves_a_finite_divergence() -> None:
    labels_b = np.arange(300) % 3
    golden_bc = (2 * np.eye(3)[labels_b]).astype(np.float32)
    parity = parity_from_evidence(_evidence(labels_b, golden_bc, 500 * golden_bc))
    assert 1 < parity.kl < 100


def test_the_operating_point_is_counted_at_the_threshold_and_auroc_is_scikit_learns() -> None:
    labels_b, golden_bc, candidate_bc = _noisy(noise=1.2)
    point = OperatingPoint(temperature=1.7, threshold=0.6, validation_images=90)
    parity = parity_from_evidence(_evidence(labels_b, golden_bc, candidate_bc, operating_point=point))
    found = parity.operating
    assert found is not None
    finding_b = labels_b != 1
    golden_b, candidate_b = (1 - _softmax(logits_bc / 1.7)[:, 1] for logits_bc in (golden_bc, candidate_bc))
    assert (found.findings, found.normals) == (int(finding_b.sum()), int((~finding_b).sum()))
    assert found.auroc.reference == pytest.approx(roc_auc_score(finding_b, golden_b))
    assert found.auroc.candidate == pytest.approx(roc_auc_score(finding_b, candidate_b))
    assert found.sensitivity is not None
    assert found.specificity is not None
    assert found.sensitivity.reference == pytest.approx((golden_b > 0.6)[finding_b].mean())
    assert found.sensitivity.candidate == pytest.approx((candidate_b > 0.6)[finding_b].mean())
    assert found.specificity.candidate == pytest.approx((candidate_b <= 0.6)[~finding_b].mean())
    assert found.changed_at_threshold == int(((golden_b > 0.6) != (candidate_b > 0.6)).sum())


def test_answers_can_hold_while_the_operating_point_moves() -> None:
    labels_b = np.array([1, 0] * 200)
    logits_bc = np.zeros((400, 3), dtype=np.float32)
    logits_bc[np.arange(400), labels_b] = 1.0
    point = OperatingPoint(temperature=None, threshold=0.5, validation_images=90)
    # Half as sure: every answer stays, every normal film crosses the threshold.
    parity = parity_from_evidence(_evidence(labels_b, logits_bc, 0.5 * logits_bc, operating_point=point))
    assert parity.changed_answers == 0
    assert parity.operating is not None
    assert parity.operating.specificity is not None
    assert parity.operating.specificity.reference == 1.0
    assert parity.operating.specificity.candidate == 0.0
    assert parity.operating.specificity.loss_interval_90[0] > 0.9
    assert parity.operating.auroc.loss_interval_90 == (0.0, 0.0)


def test_a_model_that_gives_probabilities_is_held_to_the_same_threshold() -> None:
    labels_b, golden_bc, _ = _noisy()
    point = OperatingPoint(temperature=2.0, threshold=0.5, validation_images=90)
    values = {"outputs": "probabilities", "temperature": 2.0, "operating_point": point}
    parity = parity_from_evidence(
        _evidence(labels_b, golden_bc, _softmax(golden_bc / 2.0).astype(np.float32), **values)
    )
    assert parity.operating is not None
    assert parity.operating.changed_at_threshold == 0


def test_without_normals_or_findings_there_is_no_operating_point() -> None:
    logits_bc = np.eye(3)[np.zeros(300, dtype=int)].astype(np.float32)
    assert parity_from_evidence(_evidence(np.ones(300, dtype=int), logits_bc, logits_bc)).operating is None
    assert parity_from_evidence(_evidence(np.zeros(300, dtype=int), logits_bc, logits_bc)).operating is None


def test_images_beyond_the_judged_splits_are_counted_and_change_nothing_else() -> None:
    labels_b, golden_bc, candidate_bc = _noisy()
    alone = parity_from_evidence(_evidence(labels_b, golden_bc, candidate_bc))
    others = {"other_golden_bc": golden_bc, "other_candidate_bc": candidate_bc}
    beside = parity_from_evidence(_evidence(labels_b, golden_bc, candidate_bc, **others))
    assert (beside.other_images, beside.other_changed_answers) == (600, alone.changed_answers)
    assert beside.model_copy(update={"other_images": 0, "other_changed_answers": 0}) == alone


def test_repetitions_are_compared_image_by_image() -> None:
    labels_b, golden_bc, _ = _noisy()
    moved_bc = golden_bc[:8].copy()
    moved_bc[5] = golden_bc[6]
    repeats = {"same": golden_bc[:32], "moved": np.stack([golden_bc[:8], moved_bc]), "first": golden_bc[:1][None]}
    parity = parity_from_evidence(_evidence(labels_b, golden_bc, golden_bc, repeats=repeats))
    difference = np.abs(_softmax(golden_bc[5:6]) - _softmax(golden_bc[6:7])).max()
    assert parity.repeats_max_abs_dp == pytest.approx({"same": 0, "moved": difference, "first": 0})
