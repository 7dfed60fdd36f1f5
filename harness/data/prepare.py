"""Folders -> manifest: every film read whole, grouped by patient, split, and checked for leaks.

Nothing is left to fail during training: unreadable films, contradictory labels and duplicates across splits are
reported here, all at once and by name.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.core.cases import DatasetKind
from harness.core.errors import UsageError
from harness.core.files import sha256_from_file, write_atomically, write_text_atomically
from harness.core.progress import Progress
from harness.data.folders import FoundFilms, films_in_folder
from harness.data.grouping import GroupOf
from harness.data.manifest import MANIFEST_NAME, Manifest, ManifestRow, write_manifest
from harness.data.rows import refuse_leaks, rows_from_films, with_merged_groups
from harness.data.splitting import SPLITS, assigned_splits

# Left by the phantom generator in its output; whatever is prepared from there says so on its face.
SYNTHETIC_MARK = "SYNTHETIC-PHANTOMS"
Placement = Literal["reference", "copy", "link"]
_DEFAULT_FRACTIONS = (0.7, 0.1, 0.2)


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """What `harness data prepare` was asked for. `fractions` None means the default, or the source's own split."""

    source: Path
    out: Path
    dataset: DatasetKind | None
    fractions: tuple[float, float, float] | None
    seed: int
    group_of: GroupOf
    placement: Placement


@dataclass(frozen=True, kw_only=True)
class PrepareResult:
    """What came out, and what a person should know of it."""

    manifest: Manifest
    group_count: int
    split_by_source: bool
    notes: tuple[str, ...]


def prepare(request: PrepareRequest, progress: Progress) -> PrepareResult:
    """Make a manifest of a source folder; raise DataError or UsageError, before anything is written, otherwise."""
    found = films_in_folder(request.source, request.dataset)
    if found.is_split and request.fractions is not None:
        raise UsageError(
            f"{request.source} is already split, so --split does not apply.",
            hint="Leave --split out to take the split as it is, or give a folder of class folders.",
        )
    rows = rows_from_films(request.source, found, request.group_of, progress)
    if found.is_split:
        refuse_leaks(rows)
    else:
        rows = _split_rows(rows, request)
    root = request.source.resolve()
    synthetic = is_synthetic(root)
    if request.placement != "reference" and synthetic:
        write_text_atomically(request.out / SYNTHETIC_MARK, f"Copied from {request.source}; no film of a person.\n")
    if request.placement != "reference":
        rows = _placed_rows(rows, root, request, progress)
        root = request.out
    manifest = Manifest(
        path=request.out / MANIFEST_NAME,
        root=root,
        class_names=found.class_names,
        synthetic=synthetic,
        rows=tuple(sorted(rows, key=lambda row: row.order)),
    )
    write_manifest(manifest)
    return PrepareResult(
        manifest=manifest,
        group_count=len({row.group for row in rows}),
        split_by_source=found.is_split,
        notes=notes_from_rows(found, rows),
    )


def _split_rows(rows: list[ManifestRow], request: PrepareRequest) -> list[ManifestRow]:
    rows = with_merged_groups(rows)
    splits = assigned_splits(
        [row.class_name for row in rows],
        [row.group for row in rows],
        fractions=request.fractions or _DEFAULT_FRACTIONS,
        seed=request.seed,
    )
    return [replace(row, split=split) for row, split in zip(rows, splits, strict=True)]


def _placed_rows(rows: list[ManifestRow], root: Path, request: PrepareRequest, progress: Progress) -> list[ManifestRow]:
    """Copy or hard-link every film to OUT/split/class/, a clash of names solved by the file's hash."""
    placed, taken = [], set[str]()
    with progress.task("Placing films", total=len(rows)) as task:
        for row in rows:
            name = Path(row.path).name
            target = "/".join(part for part in (row.split, row.class_name, name) if part)
            number = 0
            while target in taken:
                number += 1
                target = str(Path(target).with_name(f"{Path(name).stem}-{row.sha256[:8]}-{number}{Path(name).suffix}"))
            taken.add(target)
            _place(root / row.path, request.out / target, request.placement)
            placed.append(replace(row, path=target))
            task.advance()
    return placed


def _place(source: Path, target: Path, placement: Placement) -> None:
    if target.exists() and sha256_from_file(target) == sha256_from_file(source):
        return

    def write(temporary: Path) -> None:
        if placement == "link":
            os.link(source, temporary)
        else:
            shutil.copyfile(source, temporary)

    write_atomically(target, write)


def is_synthetic(root: Path) -> bool:
    """Tell whether the films of a source are phantoms."""
    return any((folder / SYNTHETIC_MARK).is_file() for folder in (root, root.parent))


def notes_from_rows(found: FoundFilms, rows: list[ManifestRow]) -> tuple[str, ...]:
    """Return what a person should know of the films, in words."""
    notes = []
    if found.ignored:
        shown = ", ".join(path.name for path in found.ignored[:5])
        notes.append(f"{len(found.ignored)} files are no films in a class folder and were passed over: {shown}")
    copies = len(rows) - len({row.sha256 for row in rows})
    if copies:
        notes.append(f"{copies} films are exact copies of another in the same split.")
    crossing = _groups_across_splits(rows)
    if crossing:
        notes.append(
            f"{crossing} groups have films in more than one split of the source (same patient, by file name): "
            "its test figures flatter."
        )
    return tuple(notes)


def _groups_across_splits(rows: list[ManifestRow]) -> int:
    splits = defaultdict(set)
    for row in rows:
        splits[row.group].add(row.split)
    return sum(len(found) > 1 for found in splits.values())


def counts_by_split(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Return the number of films per split and class; unlabelled films count under `(none)`."""
    counts = Counter((row.split, row.class_name or "(none)") for row in manifest.rows)
    return {split: {name: n for (where, name), n in sorted(counts.items()) if where == split} for split in SPLITS}
