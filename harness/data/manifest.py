"""A manifest is the data set: which film, which class or none, which split, whose, and what bytes.

It is one CSV file with a sidecar. Rows are ordered by split, class and hash, and the fingerprint covers everything
but names, so a copied data set is the same data set, in the same order. The folds of a cross-validation are data
sets like any other, in folders named fold-1, fold-2 and so on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from harness.core.artifacts import Kind, read_sidecar, verified_sidecar, write_artifact
from harness.core.cases import Case
from harness.core.errors import DataError
from harness.core.files import sha256_from_file
from harness.data.decoding import unreadable_films
from harness.data.splitting import SPLITS

MANIFEST_NAME = "manifest.csv"
_REMEDY = "Make it with `harness data prepare SOURCE OUT`."


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One film. `path` is relative to the manifest's root; `class_name` is empty where there is no label."""

    path: str
    class_name: str
    split: str
    group: str
    sha256: str
    width: int
    height: int
    mode: str

    @property
    def order(self) -> tuple[int, str, str, str]:
        return SPLITS.index(self.split), self.class_name, self.sha256, self.path


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A data set. `root` is the folder that the rows' paths start from."""

    path: Path
    root: Path
    class_names: tuple[str, ...]
    synthetic: bool
    rows: tuple[ManifestRow, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of classes and, per row in order, class, split, group and content."""
        lines = [[row.class_name, row.split, row.group, row.sha256] for row in self.rows]
        return hashlib.sha256(json.dumps([list(self.class_names), lines]).encode()).hexdigest()

    def rows_of(self, split: str) -> list[ManifestRow]:
        return [row for row in self.rows if row.split == split]

    def film_path(self, row: ManifestRow) -> Path:
        return self.root / row.path


def write_manifest(manifest: Manifest, *, fold: int | None = None, folds: int | None = None) -> None:
    """Write the manifest and its sidecar, which names the fold it is and how many there are, where it is one."""
    text = io.StringIO()
    names = [field.name for field in fields(ManifestRow)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in manifest.rows)
    inside = manifest.root == manifest.path.parent
    details: dict[str, JsonValue] = {
        "root": "." if inside else str(manifest.root),
        "class_names": list(manifest.class_names),
        "synthetic": manifest.synthetic,
        "fingerprint": manifest.fingerprint,
        "groups": len({row.group for row in manifest.rows}),
    }
    write_artifact(
        manifest.path,
        partial(_write, text.getvalue()),
        kind=Kind.MANIFEST,
        parents={},
        packages=("scikit-learn",) if folds else (),
        details=details | ({"fold": fold, "folds": folds} if folds else {}),
    )


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def manifest_from_folder(folder: Path) -> Manifest:
    """Read a prepared data set; raise ArtifactError or DataError where there is none or it was changed."""
    path = folder / MANIFEST_NAME
    details = verified_sidecar(path, kind=Kind.MANIFEST, remedy=_REMEDY).details
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = tuple(_row_from_text(row) for row in csv.DictReader(stream))
        root, class_names, synthetic = details["root"], details["class_names"], details["synthetic"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a manifest of this version: {error}", hint=_REMEDY) from error
    assert isinstance(root, str)
    assert isinstance(class_names, list)
    return Manifest(
        path=path,
        root=folder if root == "." else Path(root),
        class_names=tuple(map(str, class_names)),
        synthetic=bool(synthetic),
        rows=rows,
    )


def _row_from_text(text: dict[str, str]) -> ManifestRow:
    return ManifestRow(
        path=text["path"],
        class_name=text["class_name"],
        split=text["split"],
        group=text["group"],
        sha256=text["sha256"],
        width=int(text["width"]),
        height=int(text["height"]),
        mode=text["mode"],
    )


def manifest_for_case(data_folder: Path, case: Case) -> Manifest:
    """Find the case's data set: `data_folder` itself, or the folder named after the data set inside it.

    Raises DataError where there is none or its classes are not the case's.
    """
    inside = data_folder / f"dataset{case.dataset}"
    folder = data_folder if (data_folder / MANIFEST_NAME).is_file() else inside
    if not (folder / MANIFEST_NAME).is_file():
        parent, numbers = _parent_of_folds(data_folder, case)
        if numbers:
            raise DataError(
                f"{parent} is prepared as {len(numbers)} folds, which are data sets of their own.",
                hint=f"Choose one of them, such as --data {fold_path(parent, numbers[0])}.",
            )
        raise DataError(
            f"{case.name} needs dataset-{case.dataset}, and there is no {inside / MANIFEST_NAME}.",
            hint=f"`harness data prepare SOURCE {inside} --dataset {case.dataset}` makes it from class folders; "
            "`harness data demo FOLDER` draws phantoms.",
        )
    manifest = manifest_from_folder(folder)
    if manifest.class_names != case.class_names:
        raise DataError(
            f"{case.name} needs the classes {', '.join(case.class_names)}; {folder} has "
            f"{', '.join(manifest.class_names)}.",
            hint=f"Prepare the films with `--dataset {case.dataset}`, which knows the usual folder names.",
        )
    return manifest


def fold_path(parent: Path, fold: int) -> Path:
    """Return where a fold of the data set in `parent` lies."""
    return parent / f"fold-{fold}"


def fold_numbers(parent: Path) -> list[int]:
    """Return the numbers of the folds that lie in a folder, in order."""
    found = (re.fullmatch(r"fold-([1-9]\d*)", path.parent.name) for path in parent.glob(f"fold-*/{MANIFEST_NAME}"))
    return sorted(int(match[1]) for match in found if match)


def fold_folder(data_folder: Path, case: Case, fold: int) -> Path:
    """Find a fold of the case's data set: DATA/fold-K, or DATA/datasetN/fold-K; raise DataError where there is none."""
    parent, numbers = _parent_of_folds(data_folder, case)
    folder = fold_path(parent, fold)
    if fold not in numbers:
        there = f"The folds there are {_listed(numbers)}." if numbers else "There are no folds yet."
        raise DataError(
            f"{case.name} needs fold {fold} of dataset-{case.dataset}, and there is no {folder / MANIFEST_NAME}.",
            hint=f"{there} {_folds_remedy(parent, case, 'K')}",
        )
    return folder


def folds_in(data_folder: Path, case: Case) -> list[int]:
    """Return the numbers of the folds of the case's data set, in order; none where it is not prepared as folds.

    Raises DataError where some are missing: a mean over three of five folds would pass for the cross-validation.
    Raises ArtifactError where the first fold's sidecar does not say how many there should be.
    """
    parent, numbers = _parent_of_folds(data_folder, case)
    if not numbers:
        return []
    first = fold_path(parent, numbers[0]) / MANIFEST_NAME
    folds = read_sidecar(first, kind=Kind.MANIFEST, remedy=_REMEDY).details.get("folds")
    # Folds that somebody split by hand do not say how many they are.
    if isinstance(folds, int) and numbers != list(range(1, folds + 1)):
        raise DataError(
            f"{parent} holds the folds {_listed(numbers)}, and was prepared as {folds}.",
            hint=_folds_remedy(parent, case, str(folds)),
        )
    return numbers


def _parent_of_folds(data_folder: Path, case: Case) -> tuple[Path, list[int]]:
    """Return the folder that the case's folds lie in, or would lie in, and their numbers."""
    numbers = fold_numbers(data_folder)
    if numbers or (data_folder / MANIFEST_NAME).is_file():
        return data_folder, numbers
    inside = data_folder / f"dataset{case.dataset}"
    return inside, fold_numbers(inside)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _folds_remedy(parent: Path, case: Case, folds: str) -> str:
    return f"`harness data prepare SOURCE {parent} --dataset {case.dataset} --folds {folds}` makes them."


def check_films(manifest: Manifest) -> None:
    """Compare every film with its hash in the manifest; raise one DataError that names all that differ."""
    failures = []
    for row in manifest.rows:
        path = manifest.film_path(row)
        try:
            if sha256_from_file(path) != row.sha256:
                failures.append(f"{path}: changed since the manifest was made")
        except OSError as error:
            failures.append(f"{path}: {error.strerror or error}")
    if failures:
        raise unreadable_films(failures, total=len(manifest.rows))
