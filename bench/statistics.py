"""The few formulas that no library has in the form the gate needs; everything else is scipy's.

b counts images that the reference answers rightly and the candidate wrongly, c the reverse; n images in all. The
loss of accuracy is (b - c) / n.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from harness.core.cases import LabelMode

_CONFIDENCE = 0.95
_RESAMPLES = 2000


def tango_z(b: int, c: int, n: int, margin: float) -> float:
    """Return Tango's score statistic of H0: loss = margin; negative where the loss looks smaller.

    Source: Tango 1998, Statistics in Medicine 17:891, in closed form. At margin 0 its square is McNemar's
    chi-square without continuity correction.
    """
    quadratic = 2.0 * n
    linear = -b - c + (2 * n - b + c) * margin
    constant = -c * margin * (1 - margin)
    root = math.sqrt(max(linear * linear - 4 * quadratic * constant, 0.0))
    q = (root - linear) / (2 * quadratic)
    variance = n * (2 * q + margin * (1 - margin))
    return (b - c - n * margin) / math.sqrt(variance) if variance > 0 else 0.0


def tango_p(b: int, c: int, n: int, margin: float) -> float:
    """Return the one-sided p-value of "the loss is at least the margin"; small means non-inferior."""
    return float(stats.norm.cdf(tango_z(b, c, n, margin)))


@lru_cache(maxsize=4096)
def tango_interval(b: int, c: int, n: int, confidence: float = 0.90) -> tuple[float, float]:
    """Return the two-sided interval of the loss that inverts Tango's test; 0.90 matches a one-sided 5 % test."""
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    loss = (b - c) / n
    edge = 1e-9
    low = -1.0
    if tango_z(b, c, n, -1 + edge) > z:
        low = float(optimize.brentq(lambda d: tango_z(b, c, n, d) - z, -1 + edge, min(loss + 1e-12, 1 - edge)))
    high = 1.0
    if tango_z(b, c, n, 1 - edge) < -z:
        high = float(optimize.brentq(lambda d: tango_z(b, c, n, d) + z, max(loss - 1e-12, -1 + edge), 1 - edge))
    return low, high


def largest_share(events: int, n: int) -> float:
    """Return the one-sided 95 % Clopper-Pearson upper bound of a share."""
    return float(stats.beta.ppf(_CONFIDENCE, events + 1, n - events)) if events < n else 1.0


@lru_cache(maxsize=4096)
def mcnemar_p(lost: int, gained: int) -> float:
    """Return the exact two-sided p of McNemar's test: both answers changed equally often, by the binomial test."""
    return float(stats.binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


@lru_cache(maxsize=4096)
def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return the two-sided 95 % Wilson interval of a share."""
    interval = stats.binomtest(right, count).proportion_ci(confidence_level=_CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def macro_f1(labels_b: npt.NDArray[np.int64], answers_b: npt.NDArray[np.int64]) -> float:
    """Return the mean F1 of the classes that occur among the labels; needs one label.

    A class without an image has an F1 of 0 whoever answers: in the mean it would only make every loss look smaller.
    Ours, because the library's checks of its input take milliseconds for every trial of a report; a test holds it
    against scikit-learn's.
    """
    right_b = labels_b == answers_b
    per_class = [
        2 * int((right_b & (labels_b == index)).sum()) / int((labels_b == index).sum() + (answers_b == index).sum())
        for index in np.unique(labels_b)
    ]
    return float(np.mean(per_class))


def macro_f1_loss_interval(
    labels_b: npt.NDArray[np.int64],
    reference_b: npt.NDArray[np.int64],
    candidate_b: npt.NDArray[np.int64],
    class_count: int,
) -> tuple[float, float]:
    """Return the 90 % bootstrap interval of macro-F1(reference) - macro-F1(candidate), images resampled in pairs.

    Resamples the table of (label, reference, candidate) counts, which is the same bootstrap as over images at a
    thousandth of the work. The seed is fixed: the same answers give the same verdict. The mean is that of `macro_f1`.
    """
    key_b = (labels_b * class_count + reference_b) * class_count + candidate_b
    keys, counts = np.unique(key_b, return_counts=True)
    return _macro_f1_loss_interval(tuple(keys.tolist()), tuple(counts.tolist()), class_count)


@lru_cache(maxsize=1024)  # Most trials of a run share one table, that without a changed answer.
def _macro_f1_loss_interval(keys: tuple[int, ...], counts: tuple[int, ...], class_count: int) -> tuple[float, float]:
    keys_k, counts_k = np.array(keys), np.array(counts)
    samples_rk = np.random.default_rng(0).multinomial(counts_k.sum(), counts_k / counts_k.sum(), size=_RESAMPLES)
    label_k = keys_k // class_count**2
    reference_k = keys_k // class_count % class_count
    candidate_k = keys_k % class_count

    def macro_f1_r(answer_k: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        per_class = []
        for index in np.unique(label_k):
            right_r = samples_rk[:, (label_k == index) & (answer_k == index)].sum(axis=1)
            total_r = samples_rk[:, label_k == index].sum(axis=1) + samples_rk[:, answer_k == index].sum(axis=1)
            per_class.append(2 * right_r / np.maximum(total_r, 1))
        return np.asarray(np.mean(per_class, axis=0))

    low, high = np.quantile(macro_f1_r(reference_k) - macro_f1_r(candidate_k), [0.05, 0.95])
    return float(low), float(high)


def auroc_loss_interval(
    positive_b: npt.NDArray[np.bool_],
    reference_b: npt.NDArray[np.float64],
    candidate_b: npt.NDArray[np.float64],
) -> tuple[float, float, tuple[float, float]]:
    """Return both areas under the ROC curve and the 90 % interval of reference - candidate, on the same images.

    Source: DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837. Needs positives and negatives; ties count one
    half.
    """
    areas, placements = [], []
    for scores_b in (reference_b, candidate_b):
        positives, negatives = scores_b[positive_b], scores_b[~positive_b]
        above = _share_below(positives, negatives)
        areas.append(float(above.mean()))
        placements.append((above, 1 - _share_below(negatives, positives)))
    variance = 0.0
    for mine, other in zip(*placements, strict=True):
        difference = mine - other
        if len(difference) > 1:
            variance += float(difference.var(ddof=1)) / len(difference)
    loss, width = areas[0] - areas[1], float(stats.norm.ppf(_CONFIDENCE)) * math.sqrt(variance)
    return areas[0], areas[1], (loss - width, loss + width)


def _share_below(scores_b: npt.NDArray[np.float64], others_b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return for each score the share of the others below it, ties by half: the placements of DeLong's method.

    By bisection: from midranks, as usual, they take eight times as long in every trial of a report.
    """
    ordered_b = np.sort(others_b)
    twice_b = np.searchsorted(ordered_b, scores_b, side="left") + np.searchsorted(ordered_b, scores_b, side="right")
    return np.asarray(twice_b / (2 * len(ordered_b)), dtype=np.float64)


def brier_score(probabilities_bc: npt.NDArray[np.float64], labels_b: npt.NDArray[np.int64]) -> float:
    """Return the mean over images of the squared error summed over classes (Brier 1950): 0 best, 2 worst."""
    truth_bc = np.eye(probabilities_bc.shape[1])[labels_b]
    return float(((probabilities_bc - truth_bc) ** 2).sum(axis=1).mean())


def expected_calibration_error(
    confidence_b: npt.NDArray[np.float64], right_b: npt.NDArray[np.bool_], bins: int = 15
) -> float:
    """Return the mean distance of confidence and accuracy over equal bins (Guo et al. 2017, arXiv 1706.04599).

    Ours, because the library's needs torch in the process that only judges; a test holds it against torchmetrics.
    """
    bin_b = np.clip(np.ceil(confidence_b * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.abs(np.bincount(bin_b, confidence_b - right_b, minlength=bins))
    return float(gaps.sum() / len(confidence_b))


def kl_divergence(
    golden_bc: npt.NDArray[np.float64], candidate_bc: npt.NDArray[np.float64], label_mode: LabelMode
) -> float:
    """Return the mean Kullback-Leibler divergence of candidate from golden in nats; independent labels add up.

    Both are kept away from 0 by 1e-12, so that a probability that float16 rounds to 0 gives a large number, and none.
    """
    edge = 1e-12
    golden_bc, candidate_bc = np.clip(golden_bc, edge, 1 - edge), np.clip(candidate_bc, edge, 1 - edge)
    each_bc = special.rel_entr(golden_bc, candidate_bc)
    if label_mode == "multilabel":
        each_bc = each_bc + special.rel_entr(1 - golden_bc, 1 - candidate_bc)
    return float(max(each_bc.sum(axis=1).mean(), 0.0))


def log_odds_scale(
    golden_bc: npt.NDArray[np.float64], candidate_bc: npt.NDArray[np.float64], label_mode: LabelMode
) -> float:
    """Return by how much the candidate's log-odds are the golden's: 1 where alike, T where a temperature T is missing.

    Least squares through the origin, over all images; rounding in the candidate averages out. 1 where the golden has
    no odds at all. Both are kept away from 0, where float32 ends and a logarithm would decide by itself.
    """
    edge = 1e-6

    def log_odds(probabilities_bc: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if label_mode == "multilabel":
            return np.asarray(special.logit(np.clip(probabilities_bc, edge, 1 - edge)))
        logs_bc = np.log(np.maximum(probabilities_bc, edge))
        return np.asarray(logs_bc - logs_bc.mean(axis=1, keepdims=True))

    golden, candidate = log_odds(golden_bc), log_odds(candidate_bc)
    square = float((golden * golden).sum())
    return float((golden * candidate).sum()) / square if square else 1.0


def images_for_margin(margin: float, changed_share: float) -> int:
    """Return about how many images prove a margin: exact without changed answers, else at 90 % power and no loss."""
    without_changes = math.ceil(math.log(1 - _CONFIDENCE) / math.log1p(-margin))
    z = float(stats.norm.ppf(_CONFIDENCE) + stats.norm.ppf(0.90))
    return max(without_changes, math.ceil(z * z * changed_share / margin**2))


def sample_for_percentile(fraction: float) -> int:
    """Return the sample size from which a percentile has a finite two-sided 95 % order-statistic interval."""
    return math.ceil(math.log(0.025) / math.log(fraction))


def supported_percentile(samples: npt.NDArray[np.float64], fraction: float) -> float | None:
    """Return the nearest-rank percentile, or None where the sample is too small to support it."""
    if len(samples) < sample_for_percentile(fraction):
        return None
    return float(np.sort(samples)[math.ceil(len(samples) * fraction) - 1])
