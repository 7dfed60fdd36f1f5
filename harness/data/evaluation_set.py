"""The images of a data set after one preprocessing: uint8 on a memory-mapped file, with a row table.

Made once per (data fingerprint, preprocessing) and shared by all runs. With it and a golden, `bench` needs neither
the films nor, for any backend but PyTorch's own, torch. Shapes: b images, h, w pixels, c channels.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.artifacts import Kind, verified_sidecar, write_artifact
from harness.core.contract import Preprocessing
from harness.core.errors import ArtifactError
from harness.core.files import allocate_blocks, sha256_from_text
from harness.core.metrics import UNLABELLED
from harness.core.progress import Progress
from harness.data.decoding import decoded_film, each_film
from harness.data.manifest import Manifest, check_films
from harness.data.preprocessing import pixels_from_film

_REMEDY = "`harness export RUN` makes it again, where the data set is at hand."
_COLUMNS = ("id", "path", "sha256", "split", "group", "label")


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """`pixels_bhwc` is uint8 and memory-mapped; `labels_b` holds class indices, UNLABELLED where there is none."""

    folder: Path
    images_sha256: str
    pixels_bhwc: npt.NDArray[np.uint8]
    paths: tuple[str, ...]
    sha256s: tuple[str, ...]
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    labels_b: npt.NDArray[np.int64]

    def indices_of(self, split: str) -> npt.NDArray[np.int64]:
        """Return the positions of a split's images."""
        return np.flatnonzero(self._splits == split)

    @cached_property
    def _splits(self) -> npt.NDArray[np.str_]:
        return np.array(self.splits)


def evaluation_set_folder(parent: Path, fingerprint: str, preprocessing: Preprocessing) -> Path:
    """Return where the evaluation set of a data set under a preprocessing lies."""
    return parent / sha256_from_text(f"{fingerprint} {preprocessing.sha256}")[:16]


def evaluation_set_from_folder(folder: Path) -> EvaluationSet:
    """Open an evaluation set; raise ArtifactError where it is missing or was changed."""
    images_path, rows_path = folder / "images.npy", folder / "rows.csv"
    images = verified_sidecar(images_path, kind=Kind.EVALUATION_IMAGES, remedy=_REMEDY)
    rows_sidecar = verified_sidecar(rows_path, kind=Kind.EVALUATION_ROWS, remedy=_REMEDY)
    if rows_sidecar.parents.get("images") != images.sha256:
        raise ArtifactError(f"{rows_path} belongs to other images than {images_path}.", hint=_REMEDY)
    with rows_path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return EvaluationSet(
        folder=folder,
        images_sha256=images.sha256,
        pixels_bhwc=np.load(images_path, mmap_mode="r"),
        paths=tuple(row["path"] for row in rows),
        sha256s=tuple(row["sha256"] for row in rows),
        splits=tuple(row["split"] for row in rows),
        groups=tuple(row["group"] for row in rows),
        labels_b=np.array([int(row["label"]) if row["label"] else UNLABELLED for row in rows], dtype=np.int64),
    )


def ensured_evaluation_set(
    parent: Path, manifest: Manifest, preprocessing: Preprocessing, progress: Progress
) -> EvaluationSet:
    """Open the evaluation set of a manifest, making it first where there is none or it is damaged.

    Raises DataError that names every film which cannot be read.
    """
    folder = evaluation_set_folder(parent, manifest.fingerprint, preprocessing)
    try:
        return evaluation_set_from_folder(folder)
    except ArtifactError:
        _write_evaluation_set(folder, manifest, preprocessing, progress)
        return evaluation_set_from_folder(folder)


def _write_evaluation_set(folder: Path, manifest: Manifest, preprocessing: Preprocessing, progress: Progress) -> None:
    check_films(manifest)  # Other pixels must never come to lie under this data set's fingerprint.
    side_px = preprocessing.crop_px
    shape = (len(manifest.rows), side_px, side_px, 3)
    position = {manifest.film_path(row): i for i, row in enumerate(manifest.rows)}
    sha256_of = {manifest.film_path(row): row.sha256 for row in manifest.rows}

    def write_images(temporary: Path) -> None:
        images_bhwc = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        allocate_blocks(temporary)

        def fill(path: Path) -> None:
            images_bhwc[position[path]] = pixels_from_film(decoded_film(path, sha256_of[path]), preprocessing)

        each_film(position, fill, progress=progress, description=f"Preparing images at {side_px} px")
        images_bhwc.flush()

    images = write_artifact(
        folder / "images.npy",
        write_images,
        kind=Kind.EVALUATION_IMAGES,
        parents={"data": manifest.fingerprint},
        packages=("numpy", "pillow"),
        details={"preprocessing": preprocessing.model_dump(mode="json")},
    )
    write_artifact(
        folder / "rows.csv",
        partial(_write_rows, manifest),
        kind=Kind.EVALUATION_ROWS,
        parents={"data": manifest.fingerprint, "images": images.sha256},
        details={"class_names": list(manifest.class_names), "synthetic": manifest.synthetic},
    )


def _write_rows(manifest: Manifest, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for index, row in enumerate(manifest.rows):
            label = manifest.class_names.index(row.class_name) if row.class_name else ""
            writer.writerow((index, row.path, row.sha256, row.split, row.group, label))
