"""Which images int8 is calibrated on: fair, seeded, of the train split only, and never those that judge the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.calibration import Calibration, calibration_images
from harness.core.errors import ExportError, UsageError
from harness.core.metrics import UNLABELLED
from harness.data.evaluation_set import EvaluationSet

_TRAIN = {0: 60, 1: 30, 2: 2}


def _made(train: dict[int, int] = _TRAIN) -> EvaluationSet:
    rows = [("train", label) for label, count in train.items() for _ in range(count)]
    rows += [("validation", label) for label in train for _ in range(5)]
    rows += [("test", label) for label in train for _ in range(5)]
    names = tuple(f"{split}-{index}" for index, (split, _) in enumerate(rows))
    return EvaluationSet(
        folder=Path("nowhere"),
        images_sha256="0" * 64,
        pixels_bhwc=np.zeros((len(rows), 1, 1, 3), dtype=np.uint8),
        paths=names,
        sha256s=tuple(f"sha-{name}" for name in names),
        splits=tuple(split for split, _ in rows),
        groups=tuple(f"patient-{name}" for name in names),
        labels_b=np.array([label for _, label in rows], dtype=np.int64),
    )


def _changed(texts: tuple[str, ...], index: int, text: str) -> tuple[str, ...]:
    return (*texts[:index], text, *texts[index + 1 :])


@pytest.mark.parametrize("count", [16, 17, 31, 64, 92])
def test_exactly_so_many_of_the_train_split_are_drawn_in_proportion_and_the_rare_class_has_one(count: int) -> None:
    made = _made()
    rows = calibration_images(made, Calibration(count=count)).rows
    assert len(set(rows.tolist())) == count
    assert {made.splits[row] for row in rows} == {"train"}
    drawn = np.bincount(made.labels_b[rows], minlength=3)
    assert (drawn >= 1).all()
    exact = count * np.array([60, 30, 2]) / 92
    assert (np.abs(drawn - np.maximum(exact, 1)) <= 1).all(), drawn


def test_many_rare_classes_have_one_each_and_the_count_holds() -> None:
    made = _made({0: 200} | dict.fromkeys(range(1, 13), 1))
    rows = calibration_images(made, Calibration(count=16)).rows
    assert np.bincount(made.labels_b[rows]).tolist() == [4] + 12 * [1]


def test_the_seed_decides_and_films_without_a_label_are_left_out() -> None:
    made = _made()
    labels_b = made.labels_b.copy()
    labels_b[:40] = UNLABELLED
    made = replace(made, labels_b=labels_b)
    first = calibration_images(made, Calibration(count=32))
    assert (first.rows == calibration_images(made, Calibration(count=32)).rows).all()
    assert (first.rows >= 40).all()
    other = calibration_images(made, Calibration(count=32, seed=1))
    assert first.rows.tolist() != other.rows.tolist()
    assert first.sha256 != other.sha256


def test_the_hash_is_of_the_films_whatever_their_order() -> None:
    made = _made()
    everything = Calibration(count=92)
    order = np.concatenate([np.random.default_rng(0).permutation(92), np.arange(92, len(made.paths))])
    shuffled = replace(
        made,
        sha256s=tuple(made.sha256s[row] for row in order),
        groups=tuple(made.groups[row] for row in order),
        labels_b=made.labels_b[order],
    )
    assert calibration_images(shuffled, everything).sha256 == calibration_images(made, everything).sha256
    other = replace(made, sha256s=_changed(made.sha256s, 3, "sha-of-another-film"))
    assert calibration_images(other, everything).sha256 != calibration_images(made, everything).sha256


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(("what", "field"), [("film", "sha256s"), ("patient", "groups")])
def test_a_train_split_that_shares_a_film_or_patient_with_what_judges_it_is_refused(
    split: str, what: str, field: str
) -> None:
    made = _made()
    judge = int(made.indices_of(split)[0])
    texts = getattr(made, field)
    shared = replace(made, **{field: _changed(texts, 7, texts[judge])})
    with pytest.raises(ExportError, match=f"1 {what}s of the train split also stand in validation or test") as caught:
        calibration_images(shared, Calibration(count=16))
    assert "harness data prepare" in caught.value.hint


def test_films_without_a_known_patient_are_not_taken_for_one_patient() -> None:
    made = _made()
    calibration_images(replace(made, groups=("",) * len(made.groups)), Calibration(count=16))


def test_too_few_images_are_refused_in_the_request_and_in_the_data() -> None:
    with pytest.raises(UsageError, match="--calibration 15 is too small"):
        Calibration(count=15)
    with pytest.raises(ExportError, match="the train split has 92 with a label") as caught:
        calibration_images(_made(), Calibration(count=93))
    assert "--calibration 92" in caught.value.hint
