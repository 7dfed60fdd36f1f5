"""Splits keep groups whole, come near the fractions asked for, and depend on nothing but the seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from harness.core.errors import DataError, UsageError
from harness.data.splitting import SPLITS, assigned_splits, fractions_from_text

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
