"""Grouped, stratified, deterministic splits with any fractions.

scikit-learn's StratifiedGroupKFold makes equal folds only; a 0.7/0.1/0.2 split needs its own assignment. The rule
is the same greedy one: largest groups first, each to the split that it brings nearest to its share of every class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from harness.core.errors import DataError, UsageError

SPLITS = ("train", "validation", "test")


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
    class_names = sorted(set(labels))
    members = sorted(set(groups))
    counts_gc = np.zeros((len(members), len(class_names)))
    position = {group: i for i, group in enumerate(members)}
    for label, group in zip(labels, groups, strict=True):
        counts_gc[position[group], class_names.index(label)] += 1
    chosen_g = _greedy_assignment(counts_gc, np.array(fractions), np.random.default_rng(seed))
    splits = [SPLITS[chosen_g[position[group]]] for group in groups]
    found = Counter(zip(splits, labels, strict=True))
    missing = [f"{label} in {split}" for split in SPLITS for label in class_names if not found[(split, label)]]
    if missing:
        raise DataError(
            f"Too few groups for this split: there would be no {', no '.join(missing)}.",
            hint="Add films, use larger fractions for the small splits, or make groups smaller with --groups.",
        )
    return splits


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
