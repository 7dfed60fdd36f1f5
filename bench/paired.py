"""Two sets of answers to the same films: what changed, and whether the accuracy did.

The films that both answered are paired by their sha256, so that two data sets, or two orders of one, may be compared
as far as they overlap. Tests and intervals are those of the gate. Shapes: b images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from bench.statistics import (
    macro_f1,
    macro_f1_loss_interval,
    mcnemar_p,
    tango_interval,
    tango_p,
    wilson_interval,
)
from bench.trials import Reference
from harness.core.metrics import UNLABELLED

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class FilmAnswers:
    """What was answered to each film: sha256s and paths, labels and answers as indices of `class_names`."""

    class_names: tuple[str, ...]
    sha256s: tuple[str, ...]
    paths: tuple[str, ...]
    labels_b: Integers
    answers_b: Integers


def film_answers_from_rows(reference: Reference, rows: Integers, answers_b: Integers) -> FilmAnswers:
    """Return answers to rows of a run's evaluation set."""
    images = reference.evaluation_set
    return FilmAnswers(
        class_names=reference.contract.class_names,
        sha256s=tuple(images.sha256s[row] for row in rows),
        paths=tuple(images.paths[row] for row in rows),
        labels_b=images.labels_b[rows],
        answers_b=answers_b,
    )


class ChangedAnswer(BaseModel):
    """A film that the two answer differently; `label` is "" where it has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    label: str
    old: str
    new: str


class AccuracyChange(BaseModel):
    """Accuracy of both on the labelled films, fractions 0..1; a loss is what NEW has less.

    `table` counts films that both answer rightly, only OLD, only NEW, neither. `non_inferiority_p` is of "the loss is
    at least the margin", None where no margin was set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labelled: int
    table: tuple[int, int, int, int]
    old_accuracy: float
    new_accuracy: float
    old_accuracy_interval_95: tuple[float, float]
    new_accuracy_interval_95: tuple[float, float]
    mcnemar_p: float
    loss_interval_90: tuple[float, float]
    margin: float | None
    non_inferiority_p: float | None
    old_macro_f1: float
    new_macro_f1: float
    macro_f1_loss_interval_90: tuple[float, float]


class Paired(BaseModel):
    """The common films. `relabelled` counts those whose label differs, which decide nothing about accuracy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    only_old: int
    only_new: int
    relabelled: int
    changed: tuple[ChangedAnswer, ...]
    accuracy: AccuracyChange | None


def paired(old: FilmAnswers, new: FilmAnswers, margin: float | None) -> Paired | None:
    """Compare two sets of answers; None where they have no film or not the same classes in common."""
    names = old.class_names
    old_at, new_at = ({film: i for i, film in enumerate(each.sha256s)} for each in (old, new))
    films = [film for film in old_at if film in new_at]
    if not films or set(names) != set(new.class_names):
        return None
    old_rows, new_rows = ([at[film] for film in films] for at in (old_at, new_at))
    # The last entry is what UNLABELLED, which is -1, picks.
    in_old_order = np.array([*(names.index(name) for name in new.class_names), UNLABELLED])
    old_b, new_b = old.answers_b[old_rows], in_old_order[new.answers_b[new_rows]]
    old_labels_b, new_labels_b = old.labels_b[old_rows], in_old_order[new.labels_b[new_rows]]
    labels_b = np.where(old_labels_b == UNLABELLED, new_labels_b, old_labels_b)
    relabelled_b = (old_labels_b != new_labels_b) & (old_labels_b != UNLABELLED) & (new_labels_b != UNLABELLED)
    known_b = (labels_b != UNLABELLED) & ~relabelled_b
    return Paired(
        images=len(films),
        only_old=len(old_at) - len(films),
        only_new=len(new_at) - len(films),
        relabelled=int(relabelled_b.sum()),
        changed=tuple(
            ChangedAnswer(
                path=old.paths[old_rows[index]],
                sha256=films[index],
                label=names[labels_b[index]] if known_b[index] else "",
                old=names[old_b[index]],
                new=names[new_b[index]],
            )
            for index in np.flatnonzero(old_b != new_b)
        ),
        accuracy=_accuracy(labels_b[known_b], old_b[known_b], new_b[known_b], names, margin) if known_b.any() else None,
    )


def _accuracy(
    labels_b: Integers, old_b: Integers, new_b: Integers, class_names: tuple[str, ...], margin: float | None
) -> AccuracyChange:
    old_right_b, new_right_b, count = old_b == labels_b, new_b == labels_b, len(labels_b)
    both, neither = int((old_right_b & new_right_b).sum()), int((~old_right_b & ~new_right_b).sum())
    lost, gained = int((old_right_b & ~new_right_b).sum()), int((~old_right_b & new_right_b).sum())
    return AccuracyChange(
        labelled=count,
        table=(both, lost, gained, neither),
        old_accuracy=(both + lost) / count,
        new_accuracy=(both + gained) / count,
        old_accuracy_interval_95=wilson_interval(both + lost, count),
        new_accuracy_interval_95=wilson_interval(both + gained, count),
        mcnemar_p=mcnemar_p(lost, gained),
        loss_interval_90=tango_interval(lost, gained, count),
        margin=margin,
        non_inferiority_p=None if margin is None else tango_p(lost, gained, count, margin),
        old_macro_f1=macro_f1(labels_b, old_b),
        new_macro_f1=macro_f1(labels_b, new_b),
        macro_f1_loss_interval_90=macro_f1_loss_interval(labels_b, old_b, new_b, len(class_names)),
    )
