"""Every film decoded once: pixels of all sizes, one after another, on a memory-mapped file.

Augmentation wants the original film every epoch, and decoding it takes longer than the augmentation. The cache is
exact: what comes out has the very pixels of `decoded_film`. Films whose three channels are equal, which is nearly
all of them, are kept and handed out as gray, a third of the bytes; every filter works on each channel by itself.

One cache per set of films and shrinking, whatever their split, so that folds and runs share it. Two processes may
build it at once: each writes its own temporary file, and both files have the same bytes.
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.core.artifacts import Kind, verified_sidecar, write_artifact
from harness.core.contract import DECODING_VERSION
from harness.core.errors import ArtifactError
from harness.core.files import is_disk_full, sha256_from_text
from harness.core.progress import Progress
from harness.data.decoding import decoded_film, films_in_order
from harness.data.manifest import Manifest

_REMEDY = "It is made again by the next training that needs it."
_COLUMNS = ("sha256", "offset", "height", "width", "channels")
# What must stay free beside the cache: a checkpoint, its resume state and an engine of the largest case.
_RESERVE_BYTES = 6 << 30


@dataclass(frozen=True, kw_only=True)
class FilmCache:
    """`places` maps a film's sha256 to (offset, height, width, channels) in `pixels_n`."""

    pixels_n: npt.NDArray[np.uint8]
    places: dict[str, tuple[int, int, int, int]]

    def film(self, sha256: str) -> Image.Image:
        """Return a film as an 8-bit gray or RGB image; gray where its channels are equal."""
        offset, height, width, channels = self.places[sha256]
        pixels = self.pixels_n[offset : offset + height * width * channels]
        return Image.fromarray(pixels.reshape((height, width) if channels == 1 else (height, width, channels)))


def shrunk_film(film: Image.Image, side_px: int | None) -> Image.Image:
    """Return the film with its shorter side at most `side_px` (bilinear, antialiased); None leaves every film alone."""
    short_px = min(film.size)
    if side_px is None or short_px <= side_px:
        return film
    scale = side_px / short_px
    return film.resize((round(film.width * scale), round(film.height * scale)), Image.Resampling.BILINEAR)


def ensured_film_cache(
    parent: Path, manifest: Manifest, progress: Progress, *, side_px: int | None = None
) -> FilmCache | None:
    """Open the cache of a manifest's films, building it first where there is none or it is damaged.

    Returns None, having said so, where the disk has no room for it: training then decodes every film every epoch.
    Raises DataError that names every film which cannot be read or changed since the manifest was made.
    """
    folder = _cache_folder(parent, manifest, side_px)
    try:
        return film_cache_from_folder(folder)
    except ArtifactError:
        pass
    parent.mkdir(parents=True, exist_ok=True)
    needed_bytes, free_bytes = _most_bytes(manifest, side_px), shutil.disk_usage(parent).free
    if needed_bytes + _RESERVE_BYTES > free_bytes:
        progress.say(
            f"Films are decoded anew every epoch: their cache may take {needed_bytes / 1e9:.1f} GB of the "
            f"{free_bytes / 1e9:.1f} GB free under {parent} (--cache-side makes it smaller)."
        )
        return None
    try:
        _write_cache(folder, manifest, side_px, progress)
    except ArtifactError as error:
        if error.__cause__ is None or not is_disk_full(error.__cause__):
            raise
        progress.say(f"Films are decoded anew every epoch: {error.message}")
        return None
    return film_cache_from_folder(folder)


def film_cache_from_folder(folder: Path) -> FilmCache:
    """Open a cache; raise ArtifactError where it is missing or was changed."""
    pixels_path, rows_path = folder / "films.bin", folder / "films.csv"
    pixels = verified_sidecar(pixels_path, kind=Kind.FILM_PIXELS, remedy=_REMEDY)
    rows_sidecar = verified_sidecar(rows_path, kind=Kind.FILM_ROWS, remedy=_REMEDY)
    if rows_sidecar.parents.get("films") != pixels.sha256:
        raise ArtifactError(f"{rows_path} belongs to other films than {pixels_path}.", hint=_REMEDY)
    with rows_path.open(encoding="utf-8", newline="") as stream:
        places = {
            row["sha256"]: (int(row["offset"]), int(row["height"]), int(row["width"]), int(row["channels"]))
            for row in csv.DictReader(stream)
        }
    return FilmCache(pixels_n=np.memmap(pixels_path, dtype=np.uint8, mode="r"), places=places)


def _films(manifest: Manifest) -> dict[str, Path]:
    """Return the path of every different film, by hash, in an order that no split changes."""
    return dict(sorted({row.sha256: manifest.film_path(row) for row in manifest.rows}.items()))


def _cache_folder(parent: Path, manifest: Manifest, side_px: int | None) -> Path:
    key = " ".join([f"decoding {DECODING_VERSION} side {side_px}", *_films(manifest)])
    return parent / sha256_from_text(key)[:16]


def _most_bytes(manifest: Manifest, side_px: int | None) -> int:
    """Return the size of the cache if no film that is stored in colour turns out to be gray."""
    total = 0
    for row in {row.sha256: row for row in manifest.rows}.values():
        scale = min(1.0, side_px / min(row.width, row.height)) if side_px else 1.0
        channels = 1 if row.mode in {"1", "L"} or row.mode.startswith("I") else 3
        total += round(row.width * scale * row.height * scale) * channels
    return total


def _write_cache(folder: Path, manifest: Manifest, side_px: int | None, progress: Progress) -> None:
    films = _films(manifest)
    sha256_of = {path: sha256 for sha256, path in films.items()}
    rows: list[tuple[object, ...]] = []

    def decode(path: Path) -> npt.NDArray[np.uint8]:
        return _smallest_form(np.asarray(shrunk_film(decoded_film(path, sha256_of[path]), side_px)))

    def write_films(temporary: Path) -> None:
        rows.clear()
        offset = 0
        with temporary.open("wb") as stream:
            decoded = films_in_order(films.values(), decode, progress=progress, description="Decoding films once")
            for sha256, pixels in zip(films, decoded, strict=True):
                stream.write(pixels.tobytes())
                channels = 1 if pixels.ndim == 2 else pixels.shape[2]
                rows.append((sha256, offset, pixels.shape[0], pixels.shape[1], channels))
                offset += pixels.size

    pixels = write_artifact(
        folder / "films.bin", write_films, kind=Kind.FILM_PIXELS, parents={}, packages=("numpy", "pillow")
    )
    write_artifact(
        folder / "films.csv", partial(_write_rows, rows), kind=Kind.FILM_ROWS, parents={"films": pixels.sha256}
    )


def _smallest_form(pixels_hwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    first_hw = pixels_hwc[..., 0]
    gray = bool((pixels_hwc == first_hw[..., None]).all())
    return np.ascontiguousarray(first_hw) if gray else pixels_hwc


def _write_rows(rows: list[tuple[object, ...]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
