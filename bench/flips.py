"""Every image whose answer changed: which, from what to what, how sure, and for better or worse.

`bench/flips.csv` of a run holds a row for each image and trial, `bench/flips/<row>.png` the image as the model saw it,
of the first 500 images.
A person who must decide about a conversion looks at these before anything else.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from bench.judging import answered_rows, answers_of_result, evidence_of_result, recomputed
from bench.results import TrialResult, result_from_file
from bench.trials import Reference, is_stale
from harness.core.errors import ArtifactError
from harness.core.files import write_atomically, write_text_atomically
from harness.core.metrics import UNLABELLED

_THUMBNAIL_PX = 160
# Nobody looks at more, and a conversion that is altogether wrong changes every answer of a large split.
_MOST_THUMBNAILS = 500


class Flip(BaseModel):
    """One image that a trial answers otherwise than the checkpoint does.

    Probabilities are in the order of the classes; `margin` is the distance of the checkpoint's two likeliest classes.
    `direction` is lost (only the checkpoint was right), gained (only the candidate), both wrong, or unlabelled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: str
    row: int
    path: str
    sha256: str
    split: str
    group: str
    label: str
    reference_answer: str
    answer: str
    reference_probabilities: tuple[float, ...]
    probabilities: tuple[float, ...]
    margin: float
    direction: str


def flips_of_result(reference: Reference, result: TrialResult) -> list[Flip]:
    """Return the flips of a trial among the images that decide; none where it has no answers.

    Raises ArtifactError where the answers were changed.
    """
    if result.answers_sha256 is None or result.parity is None or not result.parity.changed_answers:
        return []
    evidence = evidence_of_result(reference, result, [], answers_of_result(reference, result))
    answers, images, names = evidence.answers, reference.evaluation_set, evidence.class_names
    rows, _ = answered_rows(reference, result.splits, result.judged_splits)
    flips = []
    for index in np.flatnonzero(answers.golden_b != answers.candidate_b):
        row, label = int(rows[index]), int(evidence.labels_b[index])
        was, now = int(answers.golden_b[index]), int(answers.candidate_b[index])
        second, first = np.sort(answers.golden_bc[index])[-2:]
        flips.append(
            Flip(
                trial=result.trial.identifier,
                row=row,
                path=images.paths[row],
                sha256=images.sha256s[row],
                split=images.splits[row],
                group=images.groups[row],
                label="" if label == UNLABELLED else names[label],
                reference_answer=names[was],
                answer=names[now],
                reference_probabilities=tuple(float(each) for each in answers.golden_bc[index]),
                probabilities=tuple(float(each) for each in answers.candidate_bc[index]),
                margin=float(first - second),
                direction=_direction(label, was, now),
            )
        )
    return flips


def _direction(label: int, was: int, now: int) -> str:
    if label == UNLABELLED:
        return "unlabelled"
    return {was: "lost", now: "gained"}.get(label, "both wrong")


def write_flips(reference: Reference, flips: Sequence[Flip]) -> None:
    """Write flips.csv and the images of a run anew from the flips of all its results."""
    folder = thumbnails_folder(reference.run.bench_folder)
    rows = list(dict.fromkeys(flip.row for flip in flips))[:_MOST_THUMBNAILS]
    wanted = {folder / f"{row}.png" for row in rows}
    for path in set(folder.glob("*.png")) - wanted:
        path.unlink()
    for row in rows:
        path = folder / f"{row}.png"
        if not path.is_file():
            write_atomically(path, partial(_write_thumbnail, reference, row))
    path = reference.run.bench_folder / "flips.csv"
    if flips or path.is_file():
        write_text_atomically(path, _csv(flips, reference.contract.class_names))


def with_earlier_results(reference: Reference, results: list[TrialResult]) -> list[TrialResult]:
    """Return these results of a run and those that were measured before and still stand: flips.csv is of all."""
    measured = {result.trial.identifier for result in results}
    earlier = []
    for path in sorted(reference.run.bench_folder.glob("*.json")):
        try:
            result = result_from_file(path)
            if result.trial.identifier not in measured and not is_stale(reference.run, result):
                earlier.append(recomputed(reference, result))
        except ArtifactError:  # Malformed, or its answers were changed: the report names it.
            continue
    return [*results, *earlier]


def thumbnails_folder(bench_folder: Path) -> Path:
    """Return where the images of a run's flips lie."""
    return bench_folder / "flips"


def _write_thumbnail(reference: Reference, row: int, path: Path) -> None:
    from PIL import Image

    image = Image.fromarray(np.asarray(reference.evaluation_set.pixels_bhwc[row]))
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    image.save(path, format="PNG")


def _csv(flips: Sequence[Flip], class_names: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    plain = ["trial", "row", "path", "sha256", "split", "group", "label", "reference_answer", "answer"]
    shares = [f"{whose}p_{name}" for whose in ("reference_", "") for name in class_names]
    writer.writerow([*plain, "direction", "margin", *shares])
    for flip in flips:
        values = [*flip.reference_probabilities, *flip.probabilities]
        writer.writerow([*(getattr(flip, name) for name in plain), flip.direction, flip.margin, *values])
    return text.getvalue()
