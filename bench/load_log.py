"""LoadGen's log, which is the evidence of a run: read, held against the latencies in its trace, and made a record.

The summary text is for people and is not read. The trace is not JSON in 6.0.17 (`"key":""loadgen_version""`), so its
lines are found by a pattern; every latency in it counts from the time at which the query was *due*, also where the
model was too busy to take it then.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, JsonValue

from bench.early_stopping import CONFIDENCE, upper_estimate
from bench.load_messages import Driven
from bench.load_settings import LoadSettings
from harness.core.errors import BackendError

_MARK = ":::MLLOG "
_SAMPLE = re.compile(
    r'"name":"Sample","cat":"default","ph":"b".*?"ts":(-?[\d.]+),'
    r'"args":\{"sample_seq":(\d+),"query_seq":(\d+),.*?"complete_ns":(\d+)'
)
_FRACTIONS = (0.90, 0.99)
# Where LoadGen's log has an estimate; 0 in it says that there were too few queries.
_ESTIMATE_KEYS = {0.90: "early_stopping_latency_ss", 0.99: "early_stopping_latency_ms"}


class TailEstimate(BaseModel):
    """An upper bound of a percentile. `source`: LoadGen writes some estimates, the others are computed as it does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fraction: float
    confidence: float = CONFIDENCE
    latency_s: float
    source: Literal["LoadGen", "computed"]


class LoadRun(BaseModel):
    """One run of LoadGen. `flag` is its own word about *these* settings; `reasons` are its reasons.

    `latencies_s` has one for every query in the order in which they were due; offline one for every sample, all of
    them counted from the one query. Rates are samples per second; `scheduled_per_s` only a server has. `foreign_cores`
    is what other processes used meanwhile, None where the system does not tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: LoadSettings
    loadgen_version: str
    seeds: dict[str, int]
    image_count: int
    flag: Literal["VALID", "INVALID"]
    reasons: list[str]
    query_count: int
    sample_count: int
    duration_s: float
    latencies_s: list[float]
    estimates: list[TailEstimate]
    samples_per_s: float
    scheduled_per_s: float | None
    over_bound_count: int | None
    num_errors: int
    cpu_s: float
    foreign_cores: float | None
    log_folder: str

    def estimate_s(self, fraction: float) -> float | None:
        """Return the early-stopping estimate of a percentile, None where there are too few queries for it."""
        return next((each.latency_s for each in self.estimates if each.fraction == fraction), None)


def detail_from_folder(folder: Path) -> dict[str, JsonValue]:
    """Return the last value of every key in the detail log; raise BackendError where there is none to read."""
    path = folder / "mlperf_log_detail.txt"
    detail: dict[str, JsonValue] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(_MARK):
                entry = json.loads(line.removeprefix(_MARK))
                detail[entry["key"]] = entry["value"]
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, str(error)) from error
    if "result_validity" not in detail:
        raise _unreadable(path, "it has no result")
    return detail


def run_from_folder(folder: Path, settings: LoadSettings, *, driven: Driven, foreign_cores: float | None) -> LoadRun:
    """Return a run as LoadGen's log has it.

    Raises BackendError where log and trace disagree, or where LoadGen counted an error: a sample that was completed
    twice is one, and its run would be called valid.
    """
    detail = detail_from_folder(folder)
    samples_ns = _samples_from_trace(folder / "mlperf_log_trace.json")
    query_ns = _per_query(samples_ns) if settings.scenario == "multi-stream" else samples_ns[:, 1]
    _check(folder, detail, query_ns, settings)
    ends_ns = samples_ns[:, 0] + samples_ns[:, 1]
    duration_s = float(ends_ns.max() - samples_ns[:, 0].min()) / 1e9
    latencies_s = query_ns / 1e9
    offline = settings.scenario == "offline"
    scheduled = detail.get("result_scheduled_samples_per_sec")
    over = detail.get("result_overlatency_query_count") if settings.latency_bound_s is not None else None
    return LoadRun(
        settings=settings,
        loadgen_version=str(detail["loadgen_version"]),
        seeds=driven.seeds,
        image_count=driven.image_count,
        flag="VALID" if detail["result_validity"] == "VALID" else "INVALID",
        reasons=_reasons(detail),
        query_count=_integer(detail, "result_query_count"),
        sample_count=len(samples_ns),
        duration_s=duration_s,
        latencies_s=latencies_s.tolist(),
        estimates=[] if offline else _estimates(detail, latencies_s, settings),
        samples_per_s=len(samples_ns) / duration_s,
        scheduled_per_s=float(scheduled) if isinstance(scheduled, int | float) else None,
        over_bound_count=over if isinstance(over, int) else None,
        num_errors=_integer(detail, "num_errors"),
        cpu_s=driven.cpu_s,
        foreign_cores=foreign_cores,
        log_folder=folder.name,
    )


def _samples_from_trace(path: Path) -> npt.NDArray[np.float64]:
    """Return when each sample was due, its latency and the number of its query, [s, 3], in ns, in the order due."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(path, str(error)) from error
    # `ts` is in microseconds, the rest in nanoseconds.
    found = [
        (int(match[2]), float(match[1]) * 1e3, float(match[4]), float(match[3])) for match in _SAMPLE.finditer(text)
    ]
    if not found:
        raise _unreadable(path, "it has no sample")
    return np.array([row[1:] for row in sorted(found)], dtype=np.float64)


def _per_query(samples_ns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the latency of each query: that of its last sample."""
    _, starts = np.unique(samples_ns[:, 2], return_index=True)
    return np.asarray(np.maximum.reduceat(samples_ns[:, 1], np.sort(starts)))


def _check(
    folder: Path,
    detail: dict[str, JsonValue],
    query_ns: npt.NDArray[np.float64],
    settings: LoadSettings,
) -> None:
    """Raise BackendError unless the trace has what the log counted, and LoadGen counted no error."""
    errors = _integer(detail, "num_errors")
    if errors:
        raise BackendError(
            f"LoadGen counted {errors} errors: its results are not to be believed.",
            hint=f"They are in {folder / 'mlperf_log_detail.txt'}.",
        )
    word = "per_query_latency_ns" if settings.scenario == "multi-stream" else "latency_ns"
    logged = [_integer(detail, f"result_{percent}_percentile_{word}") for percent in ("50.00", "99.00")]
    ordered = np.sort(query_ns)
    # LoadGen's percentile is sorted[floor(n p)].
    traced = [ordered[math.floor(len(ordered) * fraction)] for fraction in (0.50, 0.99)]
    count = len(query_ns) if settings.scenario != "offline" else 1
    if logged != traced or count != _integer(detail, "result_query_count"):
        raise BackendError(
            f"LoadGen's trace disagrees with its log: {traced} ns in {count} queries against {logged}.",
            hint=f"Both are in {folder}. Was a disk full, or is it another version than 6.0.17?",
        )


def _estimates(
    detail: dict[str, JsonValue], latencies_s: npt.NDArray[np.float64], settings: LoadSettings
) -> list[TailEstimate]:
    found = []
    for fraction in _FRACTIONS:
        logged = detail.get(_ESTIMATE_KEYS[fraction], 0)
        if isinstance(logged, int) and logged > 0:
            found.append(TailEstimate(fraction=fraction, latency_s=logged / 1e9, source="LoadGen"))
        elif settings.scenario != "single-stream" and (bound_s := upper_estimate(latencies_s, fraction)) is not None:
            found.append(TailEstimate(fraction=fraction, latency_s=bound_s, source="computed"))
    return found


def _reasons(detail: dict[str, JsonValue]) -> list[str]:
    """Return why LoadGen does not call the run valid, and what it says of early stopping."""
    words = [str(detail.get(key, "")) for key in ("result_invalid_reason", "early_stopping_result")]
    return [" ".join(each.split()) for each in words if each.strip()]


def _integer(detail: dict[str, JsonValue], key: str) -> int:
    value: Any = detail.get(key)
    if not isinstance(value, int):
        raise BackendError(f"LoadGen's log does not say {key}.", hint="Is it another version than 6.0.17?")
    return value


def _unreadable(path: Path, why: str) -> BackendError:
    return BackendError(f"LoadGen's {path.name} cannot be read: {why}.", hint=f"It is {path}.")
