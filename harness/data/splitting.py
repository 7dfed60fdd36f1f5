"""Grouped, stratified, deterministic splits with any fractions, and the folds of a cross-validation.

scikit-learn's StratifiedGroupKFold makes equal folds only; a 0.7/0.1/0.2 split needs its own assignment. The rule
is the same greedy one: largest groups first, each to the split that it brings nearest to its share of every class.
The test folds of a cross-validation are equal, and are scikit-learn's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from harness.core.errors import DataError, UsageError

SPLITS = ("train", "validation", "test")
# Of what a fold leaves, for train and validation. With five folds this is 0.7/0.1/0.2, the default split.
_FRACTIONS_OF_THE_REST = (0.875, 0.125)


def fractions_from_text(text: str) -> tuple[float, float, float]:
    """Parse `0.7/0.1/0.2` (train/validation/test); raise UsageError unless three positive parts sum to 1."""
    hint = "Give train/validation/test as three positive numbers that sum to 1, such as 0.7/0.1/0.2."
    try:
        parts = [float(part) for part in text.split("/")]
    except ValueError as error:
        raise UsageError(f"--split {text} is not three numbers.", hint=hint) from error
    if len(parts) != 3 or not all(part > 0 for part in parts) or abs(sum(parts) - 1) > 1e-6:
        raise UsageError(f"--split {text} is not three positive fractions that sum to 1.", hint=hint)
    return parts[0], parts[1], parts[2]


def assigned_splits(
    labels: Sequence[str], groups: Sequence[str], *, fractions: tuple[float, float, float], seed: int
) -> list[str]:
    """Return a split for every image, whole groups together; raise DataError where a class misses a split."""
    splits = [SPLITS[index] for index in _assignment(labels, groups, fractions, seed)]
    class_names = sorted(set(labels))
    found = Counter(zip(splits, labels, strict=True))
    missing = [f"{label} in {split}" for split in SPLITS for label in class_names if not found[(split, label)]]
    if missing:
        raise DataError(
            f"Too few groups for this split: there would be no {', no '.join(missing)}.",
            hint="Add films, use larger fractions for the small splits, or make groups smaller with --groups.",
        )
    return splits


def assigned_folds(labels: Sequence[str], groups: Sequence[str], *, folds: int, seed: int) -> list[list[str]]:
    """Return, for each fold, a split for every image: its own images test, an eighth of the others validate.

    Every image tests in exactly one fold, and whole groups stay together in each. Raises DataError where a class
    would miss a split of any fold. The same seed may give other folds with another version of scikit-learn.
    """
    class_names = sorted(set(labels))
    group_counts = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    few = [f"{label} is in {group_counts[label]}" for label in class_names if group_counts[label] < folds]
    if few:
        raise _too_few_groups(folds, ", ".join(few))
    test_fold_b = _test_folds(labels, groups, folds, seed)
    splits_kb = [_splits_of_fold(labels, groups, test_fold_b == fold, seed) for fold in range(folds)]
    missing = defaultdict(list)
    for fold, splits in enumerate(splits_kb, start=1):
        found = set(zip(labels, splits, strict=True))
        for label in class_names:
            for split in SPLITS:
                if (label, split) not in found:
                    missing[f"{label} in {split}"].append(str(fold))
    if missing:
        words = (f"no {what} of fold {', '.join(numbers)}" for what, numbers in missing.items())
        raise _too_few_groups(folds, f"there would be {'; '.join(words)}")
    return splits_kb


def _too_few_groups(folds: int, what: str) -> DataError:
    return DataError(
        f"Too few groups for {folds} folds: {what}.",
        hint="Add films of these classes, ask for fewer --folds, or make groups smaller with --groups.",
    )


def _test_folds(
    labels: Sequence[str], groups: Sequence[str], folds: int, seed: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    from sklearn.model_selection import StratifiedGroupKFold

    # scikit-learn takes 32 bits, and --seed any number.
    random_state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    test_fold_b = np.zeros(len(labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=random_state)
    for fold, (_, chosen) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
        test_fold_b[chosen] = fold
    return test_fold_b


def _splits_of_fold(
    labels: Sequence[str],
    groups: Sequence[str],
    is_test_b: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    seed: int,
) -> list[str]:
    splits = ["test"] * len(labels)
    rest = np.flatnonzero(~is_test_b).tolist()
    chosen = _assignment([labels[i] for i in rest], [groups[i] for i in rest], _FRACTIONS_OF_THE_REST, seed)
    for i, index in zip(rest, chosen, strict=True):
        splits[i] = SPLITS[index]
    return splits


def _assignment(labels: Sequence[str], groups: Sequence[str], fractions: Sequence[float], seed: int) -> list[int]:
    """Return for every image the index of the fraction that its group goes to."""
    class_names = sorted(set(labels))
    members = sorted(set(groups))
    counts_gc = np.zeros((len(members), len(class_names)))
    position = {group: i for i, group in enumerate(members)}
    for label, group in zip(labels, groups, strict=True):
        counts_gc[position[group], class_names.index(label)] += 1
    chosen_g = _greedy_assignment(counts_gc, np.array(fractions), np.random.default_rng(seed))
    return [chosen_g[position[group]] for group in groups]


def _greedy_assignment(
    counts_gc: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    fractions_s: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    random: np.random.Generator,
) -> list[int]:
    totals_c = counts_gc.sum(axis=0)
    wanted_sc = fractions_s[:, None] * totals_c[None, :]
    filled_sc = np.zeros_like(wanted_sc)
    order = random.permutation(len(counts_gc))
    order = order[np.argsort(-counts_gc[order].sum(axis=1), kind="stable")]
    chosen_g = [0] * len(counts_gc)
    for group in order:
        # Relative to the share wanted: a small split must not wait until the large ones are full.
        before_sc = (filled_sc - wanted_sc) / np.maximum(wanted_sc, 1e-9)
        after_sc = (filled_sc + counts_gc[group] - wanted_sc) / np.maximum(wanted_sc, 1e-9)
        weight_sc = np.where(counts_gc[group] > 0, wanted_sc / totals_c, 0.0)
        cost_s = ((after_sc**2 - before_sc**2) * weight_sc).sum(axis=1)
        best = int(np.argmin(cost_s))
        filled_sc[best] += counts_gc[group]
        chosen_g[group] = best
    return chosen_g
