"""What may be said of times: ratios over process pairs, latencies over processes, percentiles of pooled calls.

Two processes of one model differ by about 1 % in their median, for as long as they live; calls within one process
follow each other closely. An interval from the calls of one process is therefore eight to fifteen times too narrow,
and the unit of replication is the process, or the pair of processes that ran in turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy import stats

Word = Literal["faster", "slower", "same", "undecided"]

_CONFIDENCE = 0.95
# What one model measured against itself may differ by, at least: a difference below it is none.
_NOISE_FLOOR = 0.01
# "same" is shown, not assumed: the 90 % interval must lie within 1 / (1 + this) and 1 + this.
_SAME_WITHIN = 0.02


class Ratio(BaseModel):
    """One duration divided by another: below 1 the first is the faster one.

    `low` and `high` are the 95 % t-interval over process pairs, `same_low` and `same_high` its 90 % one for the test
    of equality, `sign_low` and `sign_high` the order-statistic interval of the median pair, which trusts no normal
    distribution. None where there are too few pairs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    estimate: float
    low: float | None
    high: float | None
    same_low: float | None
    same_high: float | None
    sign_low: float | None
    sign_high: float | None
    pairs: list[float]

    def inverted(self) -> Ratio:
        """Return the second duration divided by the first."""

        def turned(value: float | None) -> float | None:
            return None if value is None else 1 / value

        return Ratio(
            estimate=1 / self.estimate,
            low=turned(self.high),
            high=turned(self.low),
            same_low=turned(self.same_high),
            same_high=turned(self.same_low),
            sign_low=turned(self.sign_high),
            sign_high=turned(self.sign_low),
            pairs=[1 / each for each in self.pairs],
        )


class Interval(BaseModel):
    """A figure with its two-sided 95 % interval; the ends are None where the sample is too small for them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float | None
    high: float | None


def ratio_from_logs(logs_p: Sequence[float]) -> Ratio:
    """Return the ratio whose logarithm was measured once per process pair; needs one.

    ln R = mean over pairs; interval = ln R -+ t(P - 1) s / sqrt(P), at 95 % and, for equality, at 90 %.
    """
    array_p = np.array(logs_p)
    mean = float(array_p.mean())
    ends: dict[float, tuple[float | None, float | None]] = {0.95: (None, None), 0.90: (None, None)}
    if len(array_p) > 1:
        error = _standard_error(array_p)
        for confidence in ends:
            half = _t_quantile(confidence, len(array_p) - 1) * error
            ends[confidence] = math.exp(mean - half), math.exp(mean + half)
    sign = quantile_interval(array_p, 0.5)
    return Ratio(
        estimate=math.exp(mean),
        low=ends[0.95][0],
        high=ends[0.95][1],
        same_low=ends[0.90][0],
        same_high=ends[0.90][1],
        sign_low=None if sign is None else math.exp(sign[0]),
        sign_high=None if sign is None else math.exp(sign[1]),
        pairs=np.exp(array_p).tolist(),
    )


def ratio_of_independent(first_logs_p: Sequence[float], second_logs_q: Sequence[float]) -> Ratio:
    """Return exp(mean of the first - mean of the second) for processes that did not run in turn (Welch).

    Wider than the paired one, for whatever moved both runs is in it.
    """
    first_p, second_q = np.array(first_logs_p), np.array(second_logs_q)
    mean = float(first_p.mean() - second_q.mean())
    ends: dict[float, tuple[float | None, float | None]] = {0.95: (None, None), 0.90: (None, None)}
    if min(len(first_p), len(second_q)) > 1:
        parts = [float(each.var(ddof=1)) / len(each) for each in (first_p, second_q)]
        error = math.sqrt(sum(parts))
        freedoms = [part**2 / (len(each) - 1) for part, each in zip(parts, (first_p, second_q), strict=True)]
        freedom = sum(parts) ** 2 / sum(freedoms) if sum(freedoms) else float(len(first_p) + len(second_q) - 2)
        for confidence in ends:
            half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * error
            ends[confidence] = math.exp(mean - half), math.exp(mean + half)
    return Ratio(
        estimate=math.exp(mean),
        low=ends[0.95][0],
        high=ends[0.95][1],
        same_low=ends[0.90][0],
        same_high=ends[0.90][1],
        sign_low=None,
        sign_high=None,
        pairs=[],
    )


def word_for_ratio(ratio: Ratio, noise: Ratio | None) -> Word:
    """Return what may be said of the first against the second.

    `faster` and `slower`: the interval excludes 1 and the ratio is beyond the noise floor, which is 1 %, or what the
    session's comparison of a model with itself shows, where that is more. `same`: two one-sided tests at 5 % show the
    ratio to lie within 2 % (TOST). Everything else is `undecided`.
    """
    floor = max(_NOISE_FLOOR, abs(math.log(noise.estimate)) if noise is not None else 0.0)
    if ratio.low is None or ratio.high is None or ratio.same_low is None or ratio.same_high is None:
        return "undecided"
    if (ratio.high < 1 or ratio.low > 1) and abs(math.log(ratio.estimate)) > floor:
        return "faster" if ratio.estimate < 1 else "slower"
    if ratio.same_low >= 1 / (1 + _SAME_WITHIN) and ratio.same_high <= 1 + _SAME_WITHIN:
        return "same"
    return "undecided"


def latency_over_processes(medians_p: Sequence[float]) -> Interval:
    """Return the geometric mean of one median per process, with its t-interval on the logarithms."""
    logs_p = np.log(np.array(medians_p))
    mean = float(logs_p.mean())
    if len(logs_p) < 2:
        return Interval(value=math.exp(mean), low=None, high=None)
    half = _t_quantile(_CONFIDENCE, len(logs_p) - 1) * _standard_error(logs_p)
    return Interval(value=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half))


def percentile(samples: npt.NDArray[np.float64], fraction: float) -> Interval | None:
    """Return the nearest-rank percentile with its order-statistic interval; None where the sample cannot support it.

    The calls of all processes are pooled. For the median that would be too narrow, since calls follow each other; for
    the tail it was found to hold.
    """
    ends = quantile_interval(samples, fraction)
    if ends is None:
        return None
    value = float(np.sort(samples)[math.ceil(len(samples) * fraction) - 1])
    return Interval(value=value, low=ends[0], high=ends[1])


def quantile_interval(samples: npt.NDArray[np.float64], fraction: float) -> tuple[float, float] | None:
    """Return the 95 % interval of a quantile from binomial order statistics; None where an end is not in the sample."""
    low, high = _ranks(len(samples), fraction)
    if low < 0 or high >= len(samples):
        return None
    ordered = np.sort(samples)
    return float(ordered[low]), float(ordered[high])


@lru_cache(maxsize=4096)
def _ranks(count: int, fraction: float) -> tuple[int, int]:
    """Return the ranks, from 0, of the order statistics that enclose a quantile; one may lie outside the sample.

    Those that scipy.stats.quantile_test takes, whose own way takes milliseconds for every trial of a report.
    """
    tail = (1 - _CONFIDENCE) / 2
    return int(stats.binom.ppf(tail, count, fraction)) - 1, int(stats.binom.ppf(1 - tail, count, fraction))


def _standard_error(logs_p: npt.NDArray[np.float64]) -> float:
    return float(logs_p.std(ddof=1)) / math.sqrt(len(logs_p))


@lru_cache(maxsize=64)
def _t_quantile(confidence: float, freedom: int) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, freedom))
