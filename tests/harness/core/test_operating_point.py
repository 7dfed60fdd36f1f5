"""Temperature and threshold: what is known is found again, and where nothing can be known nothing is claimed."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import roc_curve

from harness.core.metrics import UNLABELLED, answers_from_probabilities
from harness.core.operating_point import OperatingPoint, finding_scores, operating_point, scaled_probabilities

_CLASSES = ("covid", "normal", "pneumonia")


def _sampled(temperature: float, count: int = 20000, seed: int = 0) -> tuple[Any, Any]:
    """Logits, and labels drawn from their softmax at a temperature: exactly that temperature is right."""
    random = np.random.default_rng(seed)
    logits_bc = (3 * random.normal(size=(count, 3))).astype(np.float32)
    p_bc = special.softmax(logits_bc.astype(np.float64) / temperature, axis=1)
    labels_b = (p_bc.cumsum(axis=1) < random.random((count, 1))).sum(axis=1)
    return logits_bc, np.minimum(labels_b, 2).astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    logits_bc, labels_b = _sampled(temperature, count=4000)
    found = operating_point(logits_bc, labels_b, _CLASSES, "multiclass").temperature
    assert found == pytest.approx(temperature, rel=0.06)


def _youden(scores_b: Any, finding_b: Any, threshold: float) -> float:
    above_b = scores_b > threshold
    return float(above_b[finding_b].mean() - above_b[~finding_b].mean())


@pytest.mark.parametrize("label_mode", ["multiclass", "multilabel"])
@pytest.mark.parametrize("scale", [1, 30], ids=["unsure", "saturated"])
def test_no_threshold_has_a_larger_youden_index(label_mode: Any, scale: int) -> None:
    for seed in range(5):
        logits_bc, labels_b = _sampled(1.0, count=200, seed=seed)
        # Rounded, so that scores tie across the classes.
        logits_bc = np.round(scale * logits_bc, 1).astype(np.float32)
        point = operating_point(logits_bc, labels_b, _CLASSES, label_mode)
        probabilities_bc = scaled_probabilities(logits_bc, label_mode, point.temperature)
        scores_b, finding_b = finding_scores(probabilities_bc, _CLASSES, label_mode), labels_b != 1
        false_positive_rates, true_positive_rates, _ = roc_curve(finding_b, scores_b, drop_intermediate=False)
        assert point.threshold is not None
        best = float((true_positive_rates - false_positive_rates).max())
        assert _youden(scores_b, finding_b, point.threshold) == pytest.approx(best, abs=1e-12)


def test_ten_thousand_films_are_counted_and_not_squared() -> None:
    logits_bc, labels_b = _sampled(1.0, count=10_000)
    tracemalloc.start()
    try:
        threshold = operating_point(logits_bc, labels_b, _CLASSES, "multilabel").threshold
        _, largest_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert threshold is not None
    assert largest_bytes < 20e6


def test_scores_closer_together_than_six_digits_are_separated_all_the_same() -> None:
    logits_bc = np.zeros((60, 3), dtype=np.float32)
    labels_b = np.tile([0, 1], 30)
    logits_bc[:, [0, 2]] = np.where(labels_b == 1, 17.0, 18.0)[:, None]
    point = operating_point(logits_bc, labels_b, _CLASSES, "multilabel")
    scores_b = finding_scores(scaled_probabilities(logits_bc, "multilabel", None), _CLASSES, "multilabel")
    assert np.ptp(scores_b) < 1e-6
    assert point.threshold is not None
    assert _youden(scores_b, labels_b != 1, point.threshold) == 1.0


def test_the_temperature_changes_no_answer() -> None:
    logits_bc, labels_b = _sampled(2.0, count=500)
    point = operating_point(logits_bc, labels_b, _CLASSES, "multiclass")
    scaled_bc = scaled_probabilities(logits_bc, "multiclass", point.temperature)
    assert point.temperature not in (None, 1.0)
    answers_b = answers_from_probabilities(scaled_bc, "multiclass")
    np.testing.assert_array_equal(answers_b, logits_bc.argmax(axis=1))


def test_independent_labels_have_a_threshold_and_no_temperature() -> None:
    point = operating_point(*_sampled(2.0, count=200), _CLASSES, "multilabel")
    assert point.temperature is None
    assert point.threshold is not None


@pytest.mark.parametrize("count", [0, 1, 29])
def test_too_few_films_fix_nothing(count: int) -> None:
    logits_bc, labels_b = _sampled(1.0, count=count)
    assert operating_point(logits_bc, labels_b, _CLASSES, "multiclass") == OperatingPoint(validation_images=count)


def test_films_without_a_label_count_for_nothing() -> None:
    logits_bc, labels_b = _sampled(2.0, count=400)
    expected = operating_point(logits_bc[:100], labels_b[:100], _CLASSES, "multiclass")
    labels_b[100:] = UNLABELLED
    logits_bc[100:] = np.nan
    assert operating_point(logits_bc, labels_b, _CLASSES, "multiclass") == expected
    assert expected.validation_images == 100
    labels_b[29:] = UNLABELLED
    assert operating_point(logits_bc, labels_b, _CLASSES, "multiclass") == OperatingPoint(validation_images=29)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_fix_nothing(value: float) -> None:
    logits_bc, labels_b = _sampled(1.0, count=50)
    logits_bc[3, 1] = value
    assert operating_point(logits_bc, labels_b, _CLASSES, "multiclass") == OperatingPoint(validation_images=50)


@pytest.mark.parametrize("labels", [[1], [0], [0, 2]], ids=["normal", "covid", "findings"])
def test_films_of_one_kind_fix_no_threshold(labels: list[int]) -> None:
    logits_bc, _ = _sampled(1.0, count=60)
    labels_b = np.resize(labels, 60).astype(np.int64)
    assert operating_point(logits_bc, labels_b, _CLASSES, "multiclass").threshold is None


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_has_no_temperature(right: bool) -> None:
    labels_b = np.arange(60, dtype=np.int64) % 3
    logits_bc = 5 * np.eye(3, dtype=np.float32)[labels_b if right else (labels_b + 1) % 3]
    assert operating_point(logits_bc, labels_b, _CLASSES, "multiclass").temperature is None


def test_scores_that_tell_nothing_have_no_threshold() -> None:
    labels_b = np.arange(60, dtype=np.int64) % 3
    constant = operating_point(np.ones((60, 3), dtype=np.float32), labels_b, _CLASSES, "multiclass")
    assert constant.threshold is None
    upside_down_bc = np.zeros((60, 3), dtype=np.float32)
    upside_down_bc[:, 0] = np.where(labels_b == 1, 2, 1)
    assert operating_point(upside_down_bc, labels_b, _CLASSES, "multiclass").threshold is None
