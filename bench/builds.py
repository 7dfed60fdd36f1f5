"""How far the builds of one artifact differ: in bytes, in answers and in time, from what the bench stored.

An engine's kernels are chosen by timing them, so two builds from one ONNX file are two models: each has its own
verdict, and what was measured of one need not be true of the next. `harness export --builds` makes several; here they
are compared with each other, where the gate compares each with the checkpoint.

Shapes: n builds, b images, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from bench.results import Trial, TrialResult, stored_answers
from bench.timings import typical_call_s
from bench.trials import artifact_kind, deployed_sha256
from harness.core.artifacts import read_sidecar
from harness.core.cases import LabelMode
from harness.core.errors import ArtifactError
from harness.core.metrics import answers_from_probabilities, probabilities_from_logits
from harness.core.runs import RunDirectory
from harness.core.variants import variant_from_name

BUILD_COLUMNS = [
    *("run", "artifact", "backend", "batch", "threads", "builds", "files"),
    *("max |dp|", "answers changed", "accuracy", "median ms", "spread"),
]
BUILDS_READING = """\
Builds (`harness export --builds`): max |dp| is the largest difference of a probability between any two of them, answers
changed are the images that not all answer alike, spread is (largest - smallest) / median of their median latencies.
Identical files are one model, so their spread is that of the measurement itself; a smaller one between different files
shows nothing."""


class BuildSpread(BaseModel):
    """One artifact in one backend, batch size and number of threads, over its builds; fractions 0..1.

    The lists are numbers of builds: those there are, those whose answers could be compared, those timed in turn in
    one session. `different_files` is None where a build's file is not known. Figures are None for fewer than two
    builds, and accuracies without labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    artifact: str
    backend: str
    batch_size: int
    threads: int
    builds: list[int]
    different_files: int | None
    answered: list[int]
    images: int | None = None
    max_abs_dp: float | None = None
    changed_answers: int | None = None
    smallest_accuracy: float | None = None
    largest_accuracy: float | None = None
    timed: list[int]
    smallest_median_s: float | None = None
    largest_median_s: float | None = None
    median_spread: float | None = None
    contended: bool


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What one build answered to the test split."""

    rows: npt.NDArray[np.int64]
    probabilities_bc: npt.NDArray[np.float64]
    answers_b: npt.NDArray[np.int64]


def build_spreads(run: RunDirectory, label_mode: LabelMode, results: Sequence[TrialResult]) -> list[BuildSpread]:
    """Return how far the builds of each artifact of a run differ; nothing of those that have one build."""
    groups: dict[tuple[str, str, int, int], list[TrialResult]] = {}
    for result in results:
        trial = result.trial
        key = (_name_in_every_build(trial), trial.backend, trial.batch_size, trial.threads)
        groups.setdefault(key, []).append(result)
    return [
        _spread(run, label_mode, name, sorted(group, key=lambda each: each.trial.build))
        for (name, *_), group in groups.items()
        if len(group) > 1
    ]


def spreads_of_runs(runs: Sequence[RunDirectory], results: Sequence[TrialResult]) -> list[BuildSpread]:
    """Return the same of several runs; raise RunError for one whose run.json cannot be read."""
    spreads = []
    for run in runs:
        of_run = [result for result in results if result.trial.run == run.name]
        if any(result.trial.build > 1 for result in of_run):
            spreads += build_spreads(run, run.read_record().contract.label_mode, of_run)
    return spreads


def _name_in_every_build(trial: Trial) -> str:
    return trial.variant if trial.build == 1 else trial.variant.removesuffix(f"~{trial.build}")


def _spread(run: RunDirectory, label_mode: LabelMode, name: str, group: list[TrialResult]) -> BuildSpread:
    trial = group[0].trial
    hashes = [_hash_of_files(run, result) for result in group]
    return BuildSpread(
        run=run.name,
        artifact=name,
        backend=trial.backend,
        batch_size=trial.batch_size,
        threads=trial.threads,
        builds=[result.trial.build for result in group],
        different_files=None if None in hashes else len(set(hashes)),
        **_figures_of_answers(run, label_mode, group),
        **_figures_of_time(group),
    )


def _hash_of_files(run: RunDirectory, result: TrialResult) -> str | None:
    """Return the hash of what was measured, or of what lies there where nothing could measure it; None: unknown."""
    if result.artifact_sha256 is not None:
        return result.artifact_sha256
    path = run.folder / result.trial.artifact
    try:
        return deployed_sha256(read_sidecar(path, kind=artifact_kind(path), remedy=""))
    except ArtifactError:
        return None


def _figures_of_answers(
    run: RunDirectory, label_mode: LabelMode, group: list[TrialResult]
) -> dict[str, list[int] | int | float | None]:
    found = {result.trial.build: _stored_answers(run, label_mode, result) for result in group}
    known = {build: answers for build, answers in found.items() if answers is not None}
    # Of other images there is nothing to compare; that happens where a file is left of an earlier measurement.
    first = next(iter(known.values()), None)
    known = {build: each for build, each in known.items() if first is not None and _same_images(each, first)}
    accuracies = [
        result.parity.accuracy
        for result in group
        if result.trial.build in known and result.parity is not None and result.parity.accuracy is not None
    ]
    if len(known) < 2 or first is None:
        return {"answered": list(known)}
    probabilities_nbc = np.stack([each.probabilities_bc for each in known.values()])
    answers_nb = np.stack([each.answers_b for each in known.values()])
    return {
        "answered": list(known),
        "images": len(first.rows),
        # Between any two, so from the smallest to the largest of all.
        "max_abs_dp": float(np.ptp(probabilities_nbc, axis=0).max()),
        "changed_answers": int((answers_nb != answers_nb[0]).any(axis=0).sum()),
        "smallest_accuracy": min(accuracies, default=None),
        "largest_accuracy": max(accuracies, default=None),
    }


def _same_images(one: _Answers, other: _Answers) -> bool:
    return np.array_equal(one.rows, other.rows) and one.probabilities_bc.shape == other.probabilities_bc.shape


def _stored_answers(run: RunDirectory, label_mode: LabelMode, result: TrialResult) -> _Answers | None:
    """Return what a build answered; None where the gate had nothing to judge, or the file is not there or damaged."""
    form = variant_from_name(result.trial.form)
    if result.parity is None or form is None:
        return None
    arrays = stored_answers(run, result)
    if arrays is None or not {"rows", "outputs_bc"} <= arrays.keys():
        return None
    rows, outputs_bc = (arrays[name][: result.parity.images] for name in ("rows", "outputs_bc"))
    probabilities_bc = outputs_bc.astype(np.float64)
    if not form.probabilities:
        probabilities_bc = probabilities_from_logits(outputs_bc, label_mode)
    if "answers_b" in arrays:
        answers_b = arrays["answers_b"][: result.parity.images]
    else:
        answers_b = answers_from_probabilities(probabilities_bc, label_mode)
    return _Answers(rows=rows, probabilities_bc=probabilities_bc, answers_b=answers_b)


def _figures_of_time(group: list[TrialResult]) -> dict[str, list[int] | float | bool | None]:
    """Compare the medians of those that were timed in turn: other sessions had other machines around them."""
    session = max((result.timing.session for result in group if result.timing is not None), default=None)
    medians_s, contended = {}, False
    for result in group:
        if result.timing is not None and result.timing.session == session:
            medians_s[result.trial.build] = typical_call_s(result.timing)
            contended |= result.timing.contended
    if len(medians_s) < 2:
        return {"timed": list(medians_s), "contended": contended}
    smallest_s, largest_s = min(medians_s.values()), max(medians_s.values())
    return {
        "timed": list(medians_s),
        "smallest_median_s": smallest_s,
        "largest_median_s": largest_s,
        "median_spread": (largest_s - smallest_s) / float(np.median(list(medians_s.values()))),
        "contended": contended,
    }


def build_rows(spreads: Sequence[BuildSpread]) -> list[list[str]]:
    """Return one row of BUILD_COLUMNS per artifact with several builds."""
    return [_row(spread) for spread in spreads]


def _row(spread: BuildSpread) -> list[str]:
    identity = [spread.run, spread.artifact, spread.backend, str(spread.batch_size), str(spread.threads)]
    count = str(len(spread.builds))
    fewer = [
        f"{len(numbers)} {word}"
        for numbers, word in ((spread.answered, "answered"), (spread.timed, "timed"))
        if len(numbers) < len(spread.builds)
    ]
    if fewer:
        count += f" ({', '.join(fewer)})"
    return [*identity, count, _files_cell(spread), *_answer_cells(spread), *_time_cells(spread)]


def _files_cell(spread: BuildSpread) -> str:
    if spread.different_files is None:
        return "unknown"
    return "identical" if spread.different_files == 1 else f"{spread.different_files} different"


def _answer_cells(spread: BuildSpread) -> list[str]:
    if spread.max_abs_dp is None:
        return ["", "", ""]
    accuracy = ""
    if spread.smallest_accuracy is not None and spread.largest_accuracy is not None:
        accuracy = f"{100 * spread.smallest_accuracy:.2f} %"
        if spread.smallest_accuracy != spread.largest_accuracy:
            accuracy = f"{100 * spread.smallest_accuracy:.2f} to {100 * spread.largest_accuracy:.2f} %"
    return [f"{spread.max_abs_dp:.1e}", f"{spread.changed_answers} of {spread.images}", accuracy]


def _time_cells(spread: BuildSpread) -> list[str]:
    if spread.smallest_median_s is None or spread.largest_median_s is None or spread.median_spread is None:
        return ["", ""]
    mark = " contended" if spread.contended else ""
    medians = f"{1e3 * spread.smallest_median_s:.2f} to {1e3 * spread.largest_median_s:.2f}{mark}"
    return [medians, f"{100 * spread.median_spread:.1f} %{mark}"]
