"""Splits keep groups whole, come near the fractions asked for, and depend on nothing but the seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from harness.core.errors import DataError, UsageError
from harness.data.splitting import SPLITS, assigned_folds, assigned_splits, fractions_from_text

_DEFAULT = (0.7, 0.1, 0.2)


def _random_films(seed: int) -> tuple[list[str], list[str]]:
    """Return labels and groups: some groups of one film, some of many, some across classes, classes uneven."""
    random = np.random.default_rng(seed)
    classes, films = int(random.integers(2, 4)), int(random.integers(120, 400))
    shares = random.dirichlet([8.0] * classes)
    labels = [f"class{value}" for value in random.choice(classes, size=films, p=shares)]
    groups = [f"patient{value}" for value in random.integers(0, films * 2 // 3, size=films)]
    return labels, groups


@pytest.mark.parametrize("fractions", [_DEFAULT, (0.5, 0.15, 0.35), (0.34, 0.33, 0.33), (0.8, 0.1, 0.1)])
def test_groups_never_cross_and_every_class_comes_near_its_fractions(fractions: tuple[float, float, float]) -> None:
    for seed in range(40):
        labels, groups = _random_films(seed)
        splits = assigned_splits(labels, groups, fractions=fractions, seed=seed)

        assert all(
            len({split for split, g in zip(splits, groups, strict=True) if g == group}) == 1 for group in set(groups)
        )
        largest = max(Counter(groups).values())
        found = Counter(zip(splits, labels, strict=True))
        for label, total in Counter(labels).items():
            for split, fraction in zip(SPLITS, fractions, strict=True):
                assert abs(found[(split, label)] - fraction * total) <= largest, (seed, split, label)


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    labels, groups = _random_films(0)

    first = assigned_splits(labels, groups, fractions=_DEFAULT, seed=1)

    assert assigned_splits(labels, groups, fractions=_DEFAULT, seed=1) == first
    assert assigned_splits(labels, groups, fractions=_DEFAULT, seed=2) != first


def test_the_order_of_the_films_decides_nothing() -> None:
    labels, groups = _random_films(3)
    order = np.random.default_rng(0).permutation(len(labels))

    splits = assigned_splits(labels, groups, fractions=_DEFAULT, seed=0)
    shuffled = assigned_splits([labels[i] for i in order], [groups[i] for i in order], fractions=_DEFAULT, seed=0)

    assert shuffled == [splits[i] for i in order]


def test_one_large_group_does_not_take_the_small_classes_share() -> None:
    labels = ["a"] * 100 + ["b"] * 20
    groups = ["family"] * 60 + [f"p{index}" for index in range(60)]

    found = Counter(zip(assigned_splits(labels, groups, fractions=_DEFAULT, seed=0), labels, strict=True))

    assert found[("train", "a")] == 70
    assert {split: found[(split, "b")] for split in SPLITS} == {"train": 14, "validation": 2, "test": 4}


def test_too_few_groups_is_an_error_that_names_what_would_be_missing() -> None:
    with pytest.raises(DataError, match="Too few groups") as caught:
        assigned_splits(["a"] * 30 + ["b"] * 30, ["p1"] * 30 + [f"p{i}" for i in range(30)], fractions=_DEFAULT, seed=0)

    assert "a in validation" in caught.value.message
    assert "b in" not in caught.value.message
    assert "--groups" in caught.value.hint


def test_fractions_are_read_from_text() -> None:
    assert fractions_from_text("0.7/0.1/0.2") == (0.7, 0.1, 0.2)
    assert fractions_from_text("0.34/0.33/0.33") == (0.34, 0.33, 0.33)


@pytest.mark.parametrize(
    "text", ["", "a/b/c", "0.7/0.3", "0.7/0.1/0.1", "0.9/0.1/0", "1.2/-0.1/-0.1", "nan/0.5/0.5", "70/10/20"]
)
def test_fractions_that_are_not_three_positive_parts_of_one_are_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="--split"):
        fractions_from_text(text)


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_every_film_tests_in_one_fold_and_no_group_crosses_splits_in_any(folds: int) -> None:
    for seed in range(6):
        labels, groups = _random_films(seed)
        splits_kb = assigned_folds(labels, groups, folds=folds, seed=seed)

        assert len(splits_kb) == folds
        assert [[splits[i] for splits in splits_kb].count("test") for i in range(len(labels))] == [1] * len(labels)
        for splits in splits_kb:
            assert len(set(zip(groups, splits, strict=True))) == len(set(groups))
            assert set(zip(labels, splits, strict=True)) == {(name, split) for name in set(labels) for split in SPLITS}


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_each_fold_tests_its_share_of_every_class_and_validates_on_an_eighth_of_the_rest(folds: int) -> None:
    for seed in range(6):
        labels, groups = _random_films(seed)
        largest = max(Counter(groups).values())

        for splits in assigned_folds(labels, groups, folds=folds, seed=seed):
            found = Counter(zip(splits, labels, strict=True))
            for label, total in Counter(labels).items():
                assert abs(found[("test", label)] - total / folds) <= largest, (seed, label)
                rest = total - found[("test", label)]
                assert abs(found[("validation", label)] - rest / 8) <= largest, (seed, label)


def test_five_folds_of_single_films_have_the_shares_of_the_default_split() -> None:
    labels = ["a"] * 100 + ["b"] * 50
    groups = [f"p{index}" for index in range(150)]

    for splits in assigned_folds(labels, groups, folds=5, seed=0):
        found = Counter(zip(labels, splits, strict=True))
        assert [found[("a", split)] for split in SPLITS] == [70, 10, 20]
        assert [found[("b", split)] for split in SPLITS] == [35, 5, 10]


@pytest.mark.parametrize("seed", [1, 2**32 + 1])
def test_the_same_seed_gives_the_same_folds_and_another_seed_others(seed: int) -> None:
    labels, groups = _random_films(0)

    first = assigned_folds(labels, groups, folds=4, seed=seed)

    assert assigned_folds(labels, groups, folds=4, seed=seed) == first
    assert assigned_folds(labels, groups, folds=4, seed=seed + 1) != first


def test_the_order_of_the_films_decides_no_fold() -> None:
    labels, groups = _random_films(3)
    order = np.random.default_rng(0).permutation(len(labels))

    splits_kb = assigned_folds(labels, groups, folds=3, seed=0)
    shuffled_kb = assigned_folds([labels[i] for i in order], [groups[i] for i in order], folds=3, seed=0)

    assert shuffled_kb == [[splits[i] for i in order] for splits in splits_kb]


def test_fewer_groups_of_a_class_than_folds_is_an_error_that_counts_them() -> None:
    labels = ["a"] * 40 + ["b"] * 40
    groups = [f"p{i % 4}" for i in range(40)] + [f"q{i}" for i in range(40)]

    with pytest.raises(DataError, match=r"^Too few groups for 5 folds: a is in 4\.$") as caught:
        assigned_folds(labels, groups, folds=5, seed=0)
    assert "fewer --folds" in caught.value.hint


def test_too_few_groups_to_validate_on_is_an_error_that_names_the_folds() -> None:
    labels = ["a"] * 3 + ["b"] * 40

    with pytest.raises(DataError, match=r"there would be no a in validation of fold 1, 2, 3\.$"):
        assigned_folds(labels, [f"p{i}" for i in range(43)], folds=3, seed=0)
