"""The rows of a manifest before there is one: films read whole, grouped, and refused where they clash."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from PIL import Image

from harness.core.errors import DataError
from harness.core.files import sha256_from_file
from harness.core.progress import Progress
from harness.data.decoding import decoded_film, each_film, unreadable_films
from harness.data.folders import FoundFilms
from harness.data.grouping import GroupOf
from harness.data.manifest import ManifestRow


def rows_from_films(source: Path, found: FoundFilms, group_of: GroupOf, progress: Progress) -> list[ManifestRow]:
    """Read every film of a source whole; raise one DataError for all that cannot be read or have no group.

    Raises DataError too for films that contradict each other. Films of an unsplit source come as `train`.
    """

    def properties(path: Path) -> tuple[str, int, int, str]:
        decoded_film(path)
        with Image.open(path) as image:
            return sha256_from_file(path), image.width, image.height, image.mode

    read = each_film((film.path for film in found.films), properties, progress=progress, description="Reading films")
    failures, groups = [], []
    for film in found.films:
        try:
            groups.append(group_of(film.path.relative_to(source)))
        except DataError as error:
            failures.append(error.message)
    if failures:
        raise unreadable_films(failures, total=len(found.films))
    rows = [
        ManifestRow(
            path=film.path.relative_to(source).as_posix(),
            class_name=film.class_name,
            split=film.split or "train",
            group=group,
            sha256=sha256,
            width=width,
            height=height,
            mode=mode,
        )
        for film, group, (sha256, width, height, mode) in zip(found.films, groups, read, strict=True)
    ]
    _refuse_contradictions(rows)
    return rows


def _refuse_contradictions(rows: list[ManifestRow]) -> None:
    """Identical bytes with two labels: one of them is wrong, and no split can be right."""
    by_hash = defaultdict(list)
    for row in rows:
        by_hash[row.sha256].append(row)
    odd = [same for same in by_hash.values() if len({row.class_name for row in same} - {""}) > 1]
    if odd:
        named = "\n  ".join(" = ".join(row.path for row in same) for same in odd[:20])
        raise DataError(f"{len(odd)} films lie in two classes at once:\n  {named}", hint="Remove the wrong copies.")


def refuse_leaks(rows: list[ManifestRow]) -> None:
    """Raise DataError where identical bytes lie in two splits of the source."""
    by_hash = defaultdict(list)
    for row in rows:
        by_hash[row.sha256].append(row)
    leaks = [same for same in by_hash.values() if len({row.split for row in same}) > 1]
    if leaks:
        named = "\n  ".join(" = ".join(row.path for row in same) for same in leaks[:20])
        raise DataError(
            f"{len(leaks)} films lie in two splits at once, so the test would not be one:\n  {named}",
            hint="Remove the copies from all splits but one.",
        )


def with_merged_groups(rows: list[ManifestRow]) -> list[ManifestRow]:
    """Let groups that share a film be one group: films with identical bytes are one, whatever they are called."""
    merged: dict[str, str] = {}

    def representative(name: str) -> str:
        while merged.get(name, name) != name:
            name = merged[name]
        return name

    first_group: dict[str, str] = {}
    for row in rows:
        ours, theirs = representative(row.group), representative(first_group.setdefault(row.sha256, row.group))
        merged[max(ours, theirs)] = min(ours, theirs)
    return [replace(row, group=representative(row.group)) for row in rows]
