"""How many films the study's two data sets have, and whether a folder of films is one of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from harness.core.cases import DATASETS, DatasetKind
from harness.core.errors import DataError
from harness.data.folders import films_in_folder
from harness.data.splitting import SPLITS

UNLABELLED = ""
# docs/protocol.md; the test of dataset-2 was published without labels.
STUDY_COUNTS: Mapping[int, Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        1: {
            "train": {"infected": 4919, "normal": 7081},
            "validation": {"infected": 615, "normal": 885},
            "test": {"infected": 615, "normal": 885},
        },
        2: {
            "train": {"covid": 200, "normal": 4000, "pneumonia": 2000},
            "validation": {"covid": 28, "normal": 400, "pneumonia": 200},
            "test": {UNLABELLED: 629},
        },
    }
)


def study_root(folder: Path, dataset: DatasetKind) -> Path | None:
    """Return the folder at or below `folder` whose films are as many as the study's, None where there is none."""
    return next((root for root in _split_roots(folder) if not count_differences(root, dataset)), None)


def checked_study_root(folder: Path, dataset: DatasetKind) -> Path:
    """Return the folder that holds the study's films; raise DataError that says what differs and what it is instead."""
    fitting = study_root(folder, dataset)
    if fitting is not None:
        return fitting
    roots = _split_roots(folder)
    if not roots:
        raise DataError(
            f"There are no train, validation and test folders in {folder}.",
            hint=f"Unpack what lies there by hand, so that {folder} holds them, and run the same command again.",
        )
    for other in DATASETS.values():
        root = study_root(folder, other)
        if root is not None:
            raise DataError(
                f"{root} is not the study's {dataset.name}, but has the counts of its {other.name} "
                f"({'; '.join(count_differences(root, dataset))}).",
                hint=f"The study does not say which of its two links is which. Take these films as {other.name}: "
                f"`harness data prepare {root} data/{other.name} --dataset {other.number}`, and fetch the other set "
                f"into another folder with `harness data download {other.name} OUT`.",
            )
    root = roots[0]
    raise DataError(
        f"{root} is not the study's {dataset.name}: {'; '.join(count_differences(root, dataset))}.",
        hint="Run the same command again for what may be missing; what is there is kept. To use it as it is: "
        f"`harness data prepare {root} data/{dataset.name} --dataset {dataset.number}`.",
    )


def count_differences(root: Path, dataset: DatasetKind) -> list[str]:
    """Return in words where the films of a split folder are not as many as the study's, empty where they are."""
    try:
        films = films_in_folder(root, dataset).films
    except DataError as error:
        return [error.message.rstrip(".")]
    found = Counter((film.split, film.class_name) for film in films)
    wanted = {
        (split, name): count for split, counts in STUDY_COUNTS[dataset.number].items() for name, count in counts.items()
    }
    places = sorted(found.keys() | wanted, key=lambda place: (SPLITS.index(place[0]), place[1]))
    return [
        f"{split} {name or 'without label'}: {found[split, name]} films, the study has {wanted.get((split, name), 0)}"
        for split, name in places
        if found[split, name] != wanted.get((split, name), 0)
    ]


def _split_roots(folder: Path) -> list[Path]:
    """Return every folder at or below `folder` that has a folder for training films."""
    return sorted(
        Path(parent) for parent, folders, _ in os.walk(folder) if any(name.lower() == "train" for name in folders)
    )
