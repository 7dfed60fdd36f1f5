"""The record of a trial: its JSON, raw samples included, is what every report and comparison is computed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from bench.backends.interface import Description
from bench.gate import Verdict
from bench.parity import Parity
from bench.statistics import supported_percentile
from harness.core.errors import ArtifactError
from harness.core.files import sha256_from_file
from harness.core.runs import RunDirectory

Answers = dict[str, npt.NDArray[Any]]
Splits = Literal["test", "test+validation", "all"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(_Record):
    """One artifact in one backend at one batch size.

    `variant` names the file (`eager`: the checkpoint itself; `fp32~2`: that of build 2), `form` is what its sidecar
    says that it is.
    """

    run: str
    variant: str
    artifact: str
    backend: str
    precision: str
    form: str = "fp32"
    build: int = 1
    batch_size: int
    threads: int

    @property
    def identifier(self) -> str:
        return f"{self.variant}.{self.backend}.b{self.batch_size}.t{self.threads}"


class Round(_Record):
    """One trial's block of one round, seconds per call in the order taken."""

    number: int
    compute_s: list[float]
    end_to_end_s: list[float]
    foreign_cores: float | None
    accepted: bool


class Timing(_Record):
    """All rounds of a trial. `contended` says that too few were quiet, so all were used."""

    load_s: float
    first_call_s: float
    warm_up_calls: int
    rounds: list[Round]
    contended: bool

    def used_rounds(self) -> list[Round]:
        return self.rounds if self.contended else [each for each in self.rounds if each.accepted]

    def end_to_end_s(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.concatenate([np.array(each.end_to_end_s) for each in self.used_rounds()])

    def compute_s(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.concatenate([np.array(each.compute_s) for each in self.used_rounds()])


class TrialResult(_Record):
    """What became of a trial. `margin` is a fraction; `verdict` is None where the trial did not get that far.

    `splits` is what was asked for, `judged_splits` the one or two whose images decide. `answers_sha256` is of the file
    beside the record that every figure of parity can be computed from again.
    """

    trial: Trial
    status: Literal["measured", "failed", "unavailable"]
    reason: str = ""
    artifact_sha256: str | None = None
    artifact_size_bytes: int | None = None
    margin: float
    margin_set: str
    splits: Splits = "test"
    judged_splits: tuple[str, ...] = ("test",)
    quick: bool
    description: Description | None = None
    verdict: Verdict | None = None
    parity: Parity | None = None
    answers_sha256: str | None = None
    refused_batches: dict[int, str] = {}
    timing: Timing | None = None
    created: str
    machine: dict[str, JsonValue]


class TimingSummary(_Record):
    """Figures for people, seconds and images per second; a percentile is None where the sample cannot support it."""

    calls: int
    median_s: float
    p90_s: float | None
    p99_s: float | None
    compute_median_s: float
    images_per_s: float
    largest_foreign_cores: float | None


def timing_summary(timing: Timing, batch_size: int) -> TimingSummary:
    """Return the closed-loop figures: service time only, no queueing."""
    end_to_end_s = timing.end_to_end_s()
    foreign = [each.foreign_cores for each in timing.used_rounds() if each.foreign_cores is not None]
    return TimingSummary(
        calls=len(end_to_end_s),
        median_s=float(np.median(end_to_end_s)),
        p90_s=supported_percentile(end_to_end_s, 0.90),
        p99_s=supported_percentile(end_to_end_s, 0.99),
        compute_median_s=float(np.median(timing.compute_s())),
        images_per_s=float(batch_size * len(end_to_end_s) / end_to_end_s.sum()),
        largest_foreign_cores=max(foreign, default=None),
    )


class SpeedUp(_Record):
    """How many times faster than eager PyTorch: median over common rounds, and the range of the rounds."""

    median: float
    lowest: float
    highest: float


def speed_up(eager: Timing, other: Timing) -> SpeedUp | None:
    """Compare two trials round by round, since both were measured within each round; None without common rounds."""
    theirs = {each.number: float(np.median(each.end_to_end_s)) for each in other.used_rounds()}
    ratios = [
        float(np.median(each.end_to_end_s)) / theirs[each.number]
        for each in eager.used_rounds()
        if each.number in theirs
    ]
    if not ratios:
        return None
    return SpeedUp(median=float(np.median(ratios)), lowest=min(ratios), highest=max(ratios))


def results_from_folder(folder: Path) -> list[TrialResult]:
    """Read all trial records of one run; raise ArtifactError for one that is malformed."""
    return [result_from_file(path) for path in sorted(folder.glob("*.json"))]


def result_from_file(path: Path) -> TrialResult:
    """Read one trial record; raise ArtifactError where it is malformed."""
    try:
        return TrialResult.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is not a trial record of this version: {error}",
            hint="Delete it and run `harness bench` again.",
        ) from error


def answers_path(run: RunDirectory, trial: Trial) -> Path:
    """Return where a trial's answers lie."""
    return run.bench_folder / f"{trial.identifier}.answers.npz"


def stored_answers(run: RunDirectory, result: TrialResult) -> Answers | None:
    """Return the arrays of a trial, None where there are none any more or they were changed."""
    path = answers_path(run, result.trial)
    if result.answers_sha256 is None or not path.is_file() or sha256_from_file(path) != result.answers_sha256:
        return None
    return answers_from_file(path)


def answers_from_file(path: Path) -> Answers:
    """Return the arrays of a file of answers, by name."""
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}
