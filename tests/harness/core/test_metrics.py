"""The figures against scikit-learn's own functions, the study's decoding rule, and the study's own numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn import metrics as sk

from harness.core.cases import CASES, case_named
from harness.core.metrics import (
    UNLABELLED,
    SplitMetrics,
    answers_from_probabilities,
    classification_text,
    metrics_from_answers,
    probabilities_from_logits,
)
from harness.core.published import caveats, published_metrics

_NAMES = ("covid", "normal", "pneumonia")


def _metrics(labels: np.ndarray, answers: np.ndarray) -> SplitMetrics:
    found = metrics_from_answers(labels, answers, _NAMES)
    assert found is not None
    return found


@pytest.fixture
def labels_b() -> np.ndarray:
    return np.random.default_rng(0).choice(3, size=101, p=[0.1, 0.6, 0.3])


@pytest.fixture
def answers_b(labels_b: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(1)
    return np.where(random.random(labels_b.size) < 0.7, labels_b, random.integers(0, 3, labels_b.size))


def test_the_figures_are_those_of_scikit_learn(labels_b: np.ndarray, answers_b: np.ndarray) -> None:
    found = _metrics(labels_b, answers_b)

    assert found.images == 101
    assert found.accuracy == pytest.approx(sk.accuracy_score(labels_b, answers_b))
    assert found.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels_b, answers_b))
    assert found.macro_f1 == pytest.approx(sk.f1_score(labels_b, answers_b, average="macro"))
    assert found.confusion == sk.confusion_matrix(labels_b, answers_b).tolist()
    assert found.commonest_class_share == np.bincount(labels_b).max() / 101


def test_the_table_has_the_numbers_of_scikit_learns_report(labels_b: np.ndarray, answers_b: np.ndarray) -> None:
    theirs = sk.classification_report(labels_b, answers_b, target_names=_NAMES)
    ours = classification_text(_metrics(labels_b, answers_b))

    assert ours.split() == theirs.split()
    assert len(re.findall(r"\d\.\d\d", ours)) == 16


def test_a_class_that_was_never_answered_counts_as_zero_without_a_warning() -> None:
    labels_b, answers_b = np.array([0, 0, 1, 2]), np.array([1, 1, 1, 2])
    found = _metrics(labels_b, answers_b)

    assert found.classes["covid"].precision == found.classes["covid"].f1 == 0.0
    assert found.macro_f1 == pytest.approx(sk.f1_score(labels_b, answers_b, average="macro", zero_division=0))


def test_a_class_without_images_leaves_the_balanced_accuracy_as_scikit_learn_has_it() -> None:
    labels_b, answers_b = np.array([1, 1, 2, 2]), np.array([1, 2, 2, 2])
    found = _metrics(labels_b, answers_b)

    assert found.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels_b, answers_b)) == 0.75
    assert found.classes["covid"].support == 0
    assert np.array(found.confusion).shape == (3, 3)


def test_unlabelled_images_are_left_out(labels_b: np.ndarray, answers_b: np.ndarray) -> None:
    without = _metrics(labels_b, answers_b)
    more_labels_b = np.concatenate([labels_b, [UNLABELLED] * 7])
    more_answers_b = np.concatenate([answers_b, [0, 1, 2, 0, 1, 2, 0]])

    assert _metrics(more_labels_b, more_answers_b) == without


def test_without_any_label_there_are_no_figures() -> None:
    assert metrics_from_answers(np.full(5, UNLABELLED), np.zeros(5, dtype=int), _NAMES) is None


def test_multiclass_probabilities_sum_to_one_and_the_largest_is_the_answer() -> None:
    logits_bc = np.array([[1.0, 3.0, 2.0], [1e4, -1e4, 0.0], [-5.0, -6.0, -4.0]], dtype=np.float32)
    probabilities_bc = probabilities_from_logits(logits_bc, "multiclass")

    assert probabilities_bc.dtype == np.float64
    np.testing.assert_allclose(probabilities_bc.sum(axis=1), 1.0, rtol=1e-12)
    assert answers_from_probabilities(probabilities_bc, "multiclass").tolist() == [1, 0, 2]


def test_multilabel_probabilities_are_independent_sigmoids() -> None:
    logits_bc = np.array([[0.0, 2.0, -2.0]], dtype=np.float32)

    expected_bc = 1 / (1 + np.exp(-logits_bc.astype(np.float64)))
    np.testing.assert_allclose(probabilities_from_logits(logits_bc, "multilabel"), expected_bc, rtol=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "answer"),
    [
        ((0.6, 0.9, 0.9), 0),  # the first above one half, not the largest
        ((0.4, 0.51, 0.99), 1),
        ((0.1, 0.2, 0.51), 2),
        ((0.1, 0.3, 0.2), 1),  # none above one half: the largest
        ((0.5, 0.5, 0.4), 0),  # one half is not above one half
        ((0.5, 0.4, 0.501), 2),
    ],
)
def test_multilabel_answers_are_the_first_above_one_half_else_the_largest(
    probabilities: tuple[float, ...], answer: int
) -> None:
    assert answers_from_probabilities(np.array([probabilities]), "multilabel").tolist() == [answer]


def test_logits_that_are_not_numbers_stay_visible() -> None:
    logits_bc = np.array([[np.nan, 1.0, 2.0], [np.inf, np.inf, 0.0]], dtype=np.float32)

    assert np.isnan(probabilities_from_logits(logits_bc, "multiclass")).any(axis=1).all()


@pytest.mark.parametrize(
    ("case", "percent"),
    [
        ("d1-vgg16-fc", (87.88, 88.27, 94.73)),
        ("d1-resnet18-fc", (86.67, 86.53, 93.00)),
        ("d1-vgg16-all", (92.27, 91.40, 96.93)),
        ("d1-resnet18-all", (91.32, 90.73, 96.33)),
    ],
)
def test_the_published_accuracies_follow_from_the_published_matrices(
    case: str, percent: tuple[float, float, float]
) -> None:
    found = published_metrics(case_named(case))

    assert tuple(round(found[split].accuracy * 100, 2) for split in ("train", "validation", "test")) == percent
    assert found["test"].classes["infected"].support == found["validation"].classes["infected"].support == 615
    assert found["test"].classes["normal"].support == 885


@pytest.mark.parametrize(
    ("case", "covid_found"),
    [("d2-resnet18-ce", 14), ("d2-resnet18-focal", 18), ("d2-vgg16-ce", 17), ("d2-vgg16-focal", 16)],
)
def test_the_published_matrices_of_dataset_2_have_28_covid_films_in_validation(case: str, covid_found: int) -> None:
    found = published_metrics(case_named(case))

    assert set(found) == {"train", "validation"}, "its test was published unlabelled"
    assert [each.support for each in found["validation"].classes.values()] == [28, 400, 200]
    assert found["validation"].classes["covid"].recall == pytest.approx(covid_found / 28)
    assert [each.support for each in found["train"].classes.values()] == [200, 4000, 2000]


def test_every_case_has_published_figures() -> None:
    assert all(published_metrics(case)["validation"].images > 600 for case in CASES.values())


def test_a_multiclass_run_of_dataset_2_says_that_the_study_was_multi_label() -> None:
    case = case_named("d2-resnet18-ce")

    assert any("multi-label" in note for note in caveats(case, "multiclass", synthetic=False, weights="imagenet"))
    assert caveats(case, "multilabel", synthetic=False, weights="imagenet") == []


def test_phantoms_and_random_weights_are_said_first() -> None:
    notes = caveats(case_named("d1-vgg16-fc"), "multiclass", synthetic=True, weights="random")

    assert "synthetic phantoms" in notes[0]
    assert "Random initialisation" in notes[1]


def test_the_studys_misprinted_accuracy_is_told_at_its_case_only() -> None:
    told = [
        name
        for name, case in CASES.items()
        if any("86.53" in note for note in caveats(case, "multiclass", synthetic=False, weights="imagenet"))
    ]
    assert told == ["d1-resnet18-all"]
