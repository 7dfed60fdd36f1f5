"""The study's numbers of films, and folders held against them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.core.cases import CASES, DATASETS
from harness.core.errors import DataError
from harness.core.published import published_metrics
from harness.data.study_counts import STUDY_COUNTS, checked_study_root, count_differences, study_root


def _films(root: Path, counts: Mapping[str, Mapping[str, int]], capitals: bool = False) -> Path:
    """Write empty files, for only names count."""
    for split, classes in counts.items():
        for name, count in classes.items():
            folder = root / (split.capitalize() if capitals else split) / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.png").touch()
    return root


@pytest.mark.parametrize("number", [1, 2])
def test_the_numbers_are_those_of_the_published_matrices(number: int) -> None:
    case = CASES["d1-resnet18-fc" if number == 1 else "d2-resnet18-ce"]
    for split in ("validation", "test") if number == 1 else ("train", "validation"):
        classes = published_metrics(case)[split].classes
        assert {name: each.support for name, each in classes.items()} == dict(STUDY_COUNTS[number][split])


def test_dataset_2_is_recognised_as_it_was_published(tmp_path: Path) -> None:
    counts = {split: dict(classes) for split, classes in STUDY_COUNTS[2].items()}
    counts["train"]["covid-19"] = counts["train"].pop("covid")
    counts["validation"]["covid-19"] = counts["validation"].pop("covid")
    root = _films(tmp_path / "deep" / "Dataset 2", counts, capitals=True)

    assert study_root(tmp_path, DATASETS[2]) == root
    assert checked_study_root(tmp_path, DATASETS[2]) == root
    assert study_root(tmp_path, DATASETS[1]) is None


_SMALL = {
    1: {
        "train": {"infected": 3, "normal": 4},
        "validation": {"infected": 1, "normal": 2},
        "test": {"infected": 1, "normal": 2},
    },
    2: {
        "train": {"covid": 2, "normal": 3, "pneumonia": 2},
        "validation": {"covid": 1, "normal": 1, "pneumonia": 1},
        "test": {"": 3},
    },
}


@pytest.fixture
def small_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of few films."""
    monkeypatch.setattr("harness.data.study_counts.STUDY_COUNTS", _SMALL)


@pytest.mark.usefixtures("small_study")
def test_what_differs_is_named_split_by_split_and_class_by_class(tmp_path: Path) -> None:
    root = _films(tmp_path / "films", _SMALL[1] | {"train": {"infected": 3, "normal": 6}})
    (root / "test" / "infected" / "0.png").rename(root / "test" / "normal" / "more.png")
    (root / "test" / "infected" / "x.jpg").touch()

    assert count_differences(root, DATASETS[1]) == [
        "train normal: 6 films, the study has 4",
        "test normal: 3 films, the study has 2",
    ]
    with pytest.raises(DataError, match="is not the study's dataset1: train normal: 6 films") as caught:
        checked_study_root(tmp_path, DATASETS[1])
    assert f"harness data prepare {root} data/dataset1 --dataset 1" in caught.value.hint


@pytest.mark.usefixtures("small_study")
@pytest.mark.parametrize(("asked", "found"), [(1, 2), (2, 1)])
def test_the_other_set_is_recognised_by_its_counts(tmp_path: Path, asked: int, found: int) -> None:
    root = _films(tmp_path / "films", _SMALL[found])

    with pytest.raises(
        DataError, match=f"not the study's dataset{asked}, but has the counts of its dataset{found}"
    ) as e:
        checked_study_root(tmp_path, DATASETS[asked])

    assert f"harness data prepare {root} data/dataset{found} --dataset {found}" in e.value.hint
    assert f"harness data download dataset{found} OUT" in e.value.hint


@pytest.mark.usefixtures("small_study")
def test_labels_where_the_study_has_none_are_a_difference(tmp_path: Path) -> None:
    root = _films(tmp_path / "films", _SMALL[2] | {"test": {"covid": 1, "normal": 1, "pneumonia": 1}})

    assert count_differences(root, DATASETS[2]) == [
        "test without label: 0 films, the study has 3",
        "test covid: 1 films, the study has 0",
        "test normal: 1 films, the study has 0",
        "test pneumonia: 1 films, the study has 0",
    ]


def test_a_folder_without_splits_says_so(tmp_path: Path) -> None:
    (tmp_path / "covid").mkdir()

    with pytest.raises(DataError, match="no train, validation and test folders") as caught:
        checked_study_root(tmp_path, DATASETS[2])

    assert "by hand" in caught.value.hint
