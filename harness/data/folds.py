"""K-fold cross-validation: one source becomes K ordinary data sets, OUT/fold-1 to OUT/fold-K.

Every film tests in exactly one of them, and each has a validation split of its own, so that whatever takes a data set
takes a fold. They refer to the films where these lie: K copies of every film would serve nobody.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from harness.core.artifacts import sidecar_path
from harness.core.errors import UsageError
from harness.core.files import writing_failed
from harness.core.progress import Progress
from harness.data.folders import films_in_folder
from harness.data.manifest import MANIFEST_NAME, Manifest, fold_numbers, fold_path, write_manifest
from harness.data.prepare import PrepareRequest, PrepareResult, is_synthetic, notes_from_rows
from harness.data.rows import rows_from_films, with_merged_groups
from harness.data.splitting import assigned_folds


def prepare_folds(request: PrepareRequest, folds: int, progress: Progress) -> list[PrepareResult]:
    """Make the data sets of all folds; raise DataError or UsageError, before anything is written, otherwise.

    Manifests of folds that OUT held before are removed: folds of two preparations must never pass for one.
    """
    _refuse_other_options(request)
    found = films_in_folder(request.source, request.dataset)
    if found.is_split:
        raise UsageError(
            f"{request.source} is already split, so --folds does not apply.",
            hint="Leave --folds out to take the split as it is, or give a folder of class folders.",
        )
    rows = with_merged_groups(rows_from_films(request.source, found, request.group_of, progress))
    groups = [row.group for row in rows]
    splits_kb = assigned_folds([row.class_name for row in rows], groups, folds=folds, seed=request.seed)
    root = request.source.resolve()
    results = []
    notes = (*notes_from_rows(found, rows), *_removed_folds(request.out, folds))
    for fold, splits in enumerate(splits_kb, start=1):
        split_rows = [replace(row, split=split) for row, split in zip(rows, splits, strict=True)]
        manifest = Manifest(
            path=fold_path(request.out, fold) / MANIFEST_NAME,
            root=root,
            class_names=found.class_names,
            synthetic=is_synthetic(root),
            rows=tuple(sorted(split_rows, key=lambda row: row.order)),
        )
        write_manifest(manifest, fold=fold, folds=folds)
        results.append(
            PrepareResult(manifest=manifest, group_count=len(set(groups)), split_by_source=False, notes=notes)
        )
    return results


def _refuse_other_options(request: PrepareRequest) -> None:
    if request.fractions is not None:
        raise UsageError(
            "--folds and --split exclude each other.",
            hint="Leave --split out: a fold tests on 1/K of the films and validates on an eighth of the others.",
        )
    if request.placement != "reference":
        raise UsageError(
            f"--folds and --{request.placement} exclude each other.",
            hint=f"Leave --{request.placement} out: folds refer to the films in SOURCE, which must stay there.",
        )
    if request.out.resolve().is_relative_to(request.source.resolve()):
        raise UsageError(
            f"{request.out} lies in {request.source}, where folds would be taken for classes.",
            hint="Give a folder outside SOURCE.",
        )


def _removed_folds(out: Path, folds: int) -> list[str]:
    """Remove the manifests of earlier folds; return in words what no new fold takes the place of."""
    earlier = fold_numbers(out)
    for number in earlier:
        path = fold_path(out, number) / MANIFEST_NAME
        try:
            path.unlink()
            sidecar_path(path).unlink(missing_ok=True)
        except OSError as error:
            raise writing_failed(path, error) from error
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # Unless somebody keeps other files there.
    surplus = ", ".join(fold_path(out, number).name for number in earlier if number > folds)
    return [f"Folds of an earlier preparation were removed from {out}: {surplus}."] if surplus else []
