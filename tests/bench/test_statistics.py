"""The formulas against other libraries, published figures, and what they are defined to do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from bench.evidence import Evidence
from bench.gate import Word, judged
from bench.statistics import (
    auroc_loss_interval,
    expected_calibration_error,
    images_for_margin,
    largest_share,
    log_odds_scale,
    macro_f1_loss_interval,
    mcnemar_p,
    sample_for_percentile,
    supported_percentile,
    tango_interval,
    tango_p,
    tango_z,
    wilson_interval,
)
from harness.core.cases import LabelMode
from harness.core.operating_point import scaled_probabilities


@pytest.mark.parametrize(("b", "c", "n"), [(40, 20, 160), (1, 7, 21), (3, 3, 50), (0, 0, 9), (0, 1, 9)])
def test_mcnemar_and_wilson_are_statsmodels(b: int, c: int, n: int) -> None:
    exact = mcnemar([[n - b - c, b], [c, 0]], exact=True).pvalue
    assert mcnemar_p(b, c) == pytest.approx(exact, rel=1e-9)
    assert wilson_interval(b, n) == pytest.approx(proportion_confint(b, n, method="wilson"), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("b", "c", "n"), [(40, 20, 160), (1, 7, 21), (150, 86, 1600), (3, 3, 50)])
def test_tango_at_no_margin_is_mcnemar_without_correction(b: int, c: int, n: int) -> None:
    expected = mcnemar([[n - b - c, b], [c, 0]], exact=False, correction=False).statistic
    assert tango_z(b, c, n, 0.0) ** 2 == pytest.approx(expected)


def test_tango_gives_the_published_interval_of_the_airway_data() -> None:
    # Fagerlund, Lydersen, Laake 2014, BMC Med Res Methodol 14:133: b = 1, c = 7, n = 21.
    assert tango_interval(1, 7, 21, confidence=0.95) == pytest.approx((-0.517, -0.026), abs=6e-4)


@pytest.mark.parametrize("n", [1, 10, 41, 267, 268, 5000])
def test_tango_without_a_changed_answer_is_its_closed_form(n: int) -> None:
    z2 = stats.norm.ppf(0.95) ** 2
    assert tango_interval(0, 0, n) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-8)


@pytest.mark.parametrize(
    ("b", "c", "n"), [(5, 0, 41), (0, 5, 41), (40, 20, 160), (1, 7, 21), (30, 30, 5000), (0, 0, 300), (20, 0, 20)]
)
def test_the_interval_holds_the_losses_that_the_test_does_not_reject(b: int, c: int, n: int) -> None:
    low, high = tango_interval(b, c, n)
    assert low <= (b - c) / n <= high
    for loss in np.linspace(-0.999, 0.999, 401):
        if min(abs(loss - low), abs(loss - high)) > 1e-4:
            rejected = abs(tango_z(b, c, n, float(loss))) > stats.norm.ppf(0.95)
            assert rejected == (not low < loss < high), loss


@pytest.mark.parametrize(("b", "c", "n"), [(12, 3, 200), (0, 0, 268), (0, 0, 267), (7, 0, 41)])
@pytest.mark.parametrize("margin", [0.01, 0.05, 0.2])
def test_the_one_sided_test_and_the_90_percent_interval_say_the_same(b: int, c: int, n: int, margin: float) -> None:
    assert (tango_p(b, c, n, margin) < 0.05) == (tango_interval(b, c, n)[1] < margin)


def test_every_small_table_gives_finite_figures_in_order() -> None:
    for n in (1, 2, 7):
        for b, c in itertools.product(range(n + 1), repeat=2):
            if b + c <= n:
                low, high = tango_interval(b, c, n)
                assert -1 <= low <= (b - c) / n <= high <= 1
                mirrored = tango_interval(c, b, n)
                assert mirrored == pytest.approx((-high, -low), abs=1e-6)
                assert 0 <= tango_p(b, c, n, 0.01) <= 1


def test_a_larger_margin_is_never_harder_to_show() -> None:
    p_values = [tango_p(8, 3, 200, margin) for margin in (0.005, 0.01, 0.02, 0.05, 0.1, 0.5)]
    assert p_values == sorted(p_values, reverse=True)


def test_no_changed_answer_shows_one_point_from_299_images_by_share_and_from_268_by_tango() -> None:
    assert largest_share(0, 299) <= 0.01 < largest_share(0, 298)
    assert tango_p(0, 0, 268, 0.01) < 0.05 <= tango_p(0, 0, 267, 0.01)


@pytest.mark.parametrize(("events", "n"), [(0, 10), (1, 10), (9, 10), (10, 10), (3, 500)])
def test_the_largest_share_is_clopper_pearsons(events: int, n: int) -> None:
    assert largest_share(events, n) == pytest.approx(proportion_confint(events, n, alpha=0.1, method="beta")[1])


def _directly_bootstrapped(labels: np.ndarray, reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(5)
    losses = []
    for _ in range(500):
        rows = random.integers(0, len(labels), len(labels))
        scores = [
            f1_score(labels[rows], each[rows], labels=[0, 1, 2], average="macro", zero_division=0)
            for each in (reference, candidate)
        ]
        losses.append(scores[0] - scores[1])
    return np.quantile(losses, [0.05, 0.95])


def test_the_interval_of_macro_f1_is_that_of_a_bootstrap_over_images() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 120)
    reference = np.where(random.random(120) < 0.85, labels, random.integers(0, 3, 120))
    candidate = np.where(random.random(120) < 0.9, reference, random.integers(0, 3, 120))
    ours = macro_f1_loss_interval(labels, reference, candidate, 3)
    assert ours == pytest.approx(_directly_bootstrapped(labels, reference, candidate), abs=0.012)
    assert ours == macro_f1_loss_interval(labels, reference, candidate, 3)


def test_the_interval_of_macro_f1_is_nothing_where_nothing_changed_and_finite_where_a_class_is_absent() -> None:
    labels = np.array([0, 0, 1, 1, 0])
    assert macro_f1_loss_interval(labels, labels, labels, 3) == (0.0, 0.0)
    low, high = macro_f1_loss_interval(labels, labels, 1 - labels, 3)
    assert 0 < low <= high <= 1


@pytest.mark.parametrize(("fraction", "needed"), [(0.90, 36), (0.99, 368)])
def test_a_percentile_needs_as_many_samples_as_its_interval(fraction: float, needed: int) -> None:
    assert sample_for_percentile(fraction) == needed
    # The chance that all samples lie below the percentile is what leaves the interval open.
    assert fraction**needed <= 0.025 < fraction ** (needed - 1)
    assert supported_percentile(np.arange(float(needed - 1)), fraction) is None
    assert supported_percentile(np.arange(float(needed)), fraction) is not None


@pytest.mark.parametrize("n", [36, 100, 101, 432])
def test_a_percentile_is_the_nearest_rank_in_any_order(n: int) -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert supported_percentile(samples, 0.90) == np.quantile(samples, 0.90, method="inverted_cdf")
    assert supported_percentile(samples, 0.90) == math.ceil(0.9 * n)


def test_the_number_of_images_is_that_of_the_exact_bound_or_of_the_power_of_90_percent() -> None:
    assert images_for_margin(0.01, 0.0) == 299
    assert images_for_margin(0.02, 0.0) == 149
    # docs/measuring.md: 8.56 times the share over the squared margin.
    assert images_for_margin(0.01, 0.02) == pytest.approx(8.56 * 0.02 / 0.01**2, rel=0.01)


def _scores(seed: int, positives: int, negatives: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two raters who see the same signal with noise partly shared, in coarse steps so that there are ties."""
    generator = np.random.default_rng(seed)
    positive_b = np.repeat([True, False], [positives, negatives])
    shared_b = positive_b + generator.normal(size=len(positive_b))
    first_b, second_b = (np.round(shared_b + 0.5 * generator.normal(size=len(positive_b)), 1) for _ in range(2))
    return positive_b, first_b, second_b


def test_delongs_interval_is_that_of_a_paired_bootstrap() -> None:
    positive_b, first_b, second_b = _scores(5, 120, 180)
    generator = np.random.default_rng(0)
    losses = []
    for _ in range(1500):
        rows = np.concatenate([generator.integers(0, 120, 120), generator.integers(120, 300, 180)])
        losses.append(roc_auc_score(positive_b[rows], first_b[rows]) - roc_auc_score(positive_b[rows], second_b[rows]))
    first, second, (low, high) = auroc_loss_interval(positive_b, first_b, second_b)
    assert first == pytest.approx(roc_auc_score(positive_b, first_b))
    assert second == pytest.approx(roc_auc_score(positive_b, second_b))
    assert (low + high) / 2 == pytest.approx(first - second)
    assert high - low == pytest.approx(2 * stats.norm.ppf(0.95) * np.std(losses), rel=0.08)


def test_delongs_variance_of_one_rater_against_a_coin_is_that_of_the_mann_whitney_placements() -> None:
    positive_b, first_b, _ = _scores(6, 40, 60)
    constant_b = np.zeros(100)
    above = np.array([(first_b[40:] < x).mean() + (first_b[40:] == x).mean() / 2 for x in first_b[:40]])
    below = np.array([(first_b[:40] > x).mean() + (first_b[:40] == x).mean() / 2 for x in first_b[40:]])
    deviation = math.sqrt(above.var(ddof=1) / 40 + below.var(ddof=1) / 60)
    area, half, (low, high) = auroc_loss_interval(positive_b, first_b, constant_b)
    assert half == 0.5
    assert (high - low) / 2 == pytest.approx(stats.norm.ppf(0.95) * deviation)
    assert area == pytest.approx(above.mean())


def test_an_auroc_of_one_image_each_is_no_error() -> None:
    assert auroc_loss_interval(np.array([True, False]), np.array([1.0, 0.0]), np.array([0.0, 1.0]))[:2] == (1.0, 0.0)


def test_a_perfectly_calibrated_bin_has_no_error_and_full_confidence_counts() -> None:
    confidence_b = np.array([0.75, 0.75, 0.75, 0.75])
    assert expected_calibration_error(confidence_b, np.array([True, True, True, False])) == pytest.approx(0)
    assert expected_calibration_error(np.ones(4), np.array([True, True, True, False])) == pytest.approx(0.25)
    assert expected_calibration_error(np.zeros(2), np.array([True, False])) == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("images", "discordant"), [(300, 0.02), (700, 0.014), (2000, 0.012)])
def test_a_true_loss_of_the_margin_passes_the_gate_in_at_most_one_of_twenty(
    images: int, discordant: float, record_property: Callable[[str, object], None]
) -> None:
    """2,000 made-up test splits each: the whole gate, not one formula; at most 5 % and what chance adds to that."""
    trials, margin, generator = 2000, 0.01, np.random.default_rng(images)
    shares = [0.85 - discordant, (discordant + margin) / 2, (discordant - margin) / 2, 0.15]
    passed = 0
    for both, lost, gained, neither in generator.multinomial(images, shares, size=trials):
        labels_b = np.arange(images) % 3
        golden_b, candidate_b = labels_b.copy(), labels_b.copy()
        candidate_b[both : both + lost] = (labels_b[both : both + lost] + 1) % 3
        wrong = slice(both + lost, both + lost + gained)
        golden_b[wrong] = (labels_b[wrong] + 1) % 3
        golden_b[images - neither :] = candidate_b[images - neither :] = (labels_b[images - neither :] + 1) % 3
        evidence = Evidence(
            class_names=("covid", "normal", "pneumonia"),
            label_mode="multiclass",
            precision="int8",
            margin=margin,
            contract_problems=(),
            departures=(),
            labels_b=labels_b,
            golden_bc=(9 * np.eye(3)[golden_b]).astype(np.float32),
            candidate_bc=(9 * np.eye(3)[candidate_b]).astype(np.float32),
            reference_labels_b=labels_b,
            reference_logits_bc=(9 * np.eye(3)[golden_b]).astype(np.float32),
        )
        passed += judged(evidence)[0].word is Word.PASS
    record_property("false_pass_share", passed / trials)
    assert passed <= stats.binom.ppf(0.999, trials, 0.05)


@pytest.mark.parametrize("label_mode", ["multiclass", "multilabel"])
@pytest.mark.parametrize("temperature", [0.36, 0.863, 1.0, 2.0])
def test_the_scale_of_log_odds_is_the_temperature_that_is_missing(label_mode: LabelMode, temperature: float) -> None:
    logits_bc = np.random.default_rng(0).normal(0, 1, (500, 3))
    golden_bc = scaled_probabilities(logits_bc, label_mode, temperature)
    candidate_bc = scaled_probabilities(logits_bc, label_mode, None)
    assert log_odds_scale(golden_bc, candidate_bc, label_mode) == pytest.approx(temperature, rel=0.02)
    assert log_odds_scale(golden_bc, golden_bc, label_mode) == pytest.approx(1.0)


def test_a_reference_without_any_odds_has_no_scale() -> None:
    even_bc = np.full((10, 3), 1 / 3)
    assert log_odds_scale(even_bc, np.eye(3)[np.arange(10) % 3], "multiclass") == 1.0
