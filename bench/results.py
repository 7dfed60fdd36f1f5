"""The record of a trial: its JSON, raw samples included, is what every report and comparison is computed from."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue, ValidationError

from bench.backends.interface import Description
from bench.gate import Verdict
from bench.parity import Parity
from bench.time_statistics import Ratio
from bench.timings import Mode, Record, Timing, TimingSummary, speed_up, timing_summary
from harness.core.errors import ArtifactError
from harness.core.files import sha256_from_file
from harness.core.runs import RunDirectory

Answers = dict[str, npt.NDArray[Any]]
Splits = Literal["test", "test+validation", "all"]


class Trial(Record):
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


class TrialResult(Record):
    """What became of a trial. `margin` is a fraction; `verdict` is None where the trial did not get that far.

    `splits` is what was asked for, `judged_splits` the one or two whose images decide. `answers_sha256` is of the file
    beside the record that every figure of parity can be computed from again; all of it took `answering_s`. `twin` is a
    second set of processes of the same model, timed in turn with the first: their ratio is the session's noise.
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
    mode: Mode
    description: Description | None = None
    verdict: Verdict | None = None
    parity: Parity | None = None
    answers_sha256: str | None = None
    refused_batches: dict[int, str] = Field(default_factory=dict)
    answering_s: float | None = None
    timing: Timing | None = None
    twin: Timing | None = None
    created: str
    machine: dict[str, JsonValue]

    @cached_property
    def summary(self) -> TimingSummary | None:
        """The timing's figures, None where it was not timed."""
        return timing_summary(self.timing, self.trial.batch_size) if self.timing else None

    @cached_property
    def speed_up(self) -> Ratio | None:
        """How many times faster than eager PyTorch on the CPU, None where that took no turns with it."""
        return speed_up(self.timing) if self.timing else None

    @property
    def quick(self) -> bool:
        return self.mode == "quick"


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


def without_calls(result: TrialResult) -> TrialResult:
    """Return a result with all figures of its times and no calls: a hundredth of the size, to hand to a process.

    For reading only: a changed copy would compute them again, from nothing.
    """
    timings = {name: each.without_calls() for name in ("timing", "twin") if (each := getattr(result, name)) is not None}
    light = result.model_copy(update=timings)
    light.__dict__.update(summary=result.summary, speed_up=result.speed_up)
    return light


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
