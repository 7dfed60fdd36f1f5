"""Training batches whose order and augmentation depend on nothing but (seed, epoch, film).

That is what makes an interrupted run continue to the same weights: there is no generator whose state could be lost,
and neither the number of loader processes nor that of training processes changes which films a batch holds.
Shapes: b images, c channels, h, w pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.core.contract import Preprocessing
from harness.core.machine import core_count
from harness.data.decoding import decoded_film
from harness.data.evaluation_set import EvaluationSet
from harness.data.film_cache import FilmCache, shrunk_film
from harness.data.manifest import Manifest
from harness.data.preprocessing import normalised_pixels
from train.augmentation import augmentation_named
from train.ranks import ONE_PROCESS, Ranks
from train.recipes import Recipe

Indices = npt.NDArray[np.int64]
_BATCHES_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """This process's part of a batch. `weight` is its share of the images of the whole batch, 0 for a stand-in."""

    inputs: Tensor
    labels_b: Tensor
    weight: float


@dataclass(frozen=True, kw_only=True)
class OriginalFilms:
    """The films of all rows as they lie on the disk, decoded once where there is a cache."""

    paths: tuple[Path, ...]
    sha256s: tuple[str, ...]
    cache: FilmCache | None = None
    side_px: int | None = None

    def film(self, row: int) -> Image.Image:
        """Return a film; raise DataError where it vanished or changed since the manifest was made."""
        if self.cache is not None:
            return self.cache.film(self.sha256s[row])
        return shrunk_film(decoded_film(self.paths[row], self.sha256s[row]), self.side_px)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What training draws from; `indices` are the rows of the train split, `films` those of all rows."""

    evaluation_set: EvaluationSet
    indices: Indices
    films: OriginalFilms
    seed: int

    @property
    def labels_b(self) -> Indices:
        """The labels of the train split."""
        return self.evaluation_set.labels_b[self.indices]


def training_data(
    manifest: Manifest, evaluation_set: EvaluationSet, seed: int, *, cache: FilmCache | None = None, recipe: Recipe
) -> TrainingData:
    """Return the train split of a manifest."""
    return TrainingData(
        evaluation_set=evaluation_set,
        indices=evaluation_set.indices_of("train"),
        films=OriginalFilms(
            paths=tuple(manifest.film_path(row) for row in manifest.rows),
            sha256s=tuple(row.sha256 for row in manifest.rows),
            cache=cache,
            side_px=recipe.cache_side_px,
        ),
        seed=seed,
    )


def epoch_chunks(data: TrainingData, recipe: Recipe, epoch: int) -> list[Indices]:
    """Return the rows of each batch of an epoch, every training film once unless `limit_batches` ends it early.

    A last batch of one film is left out: batch normalisation cannot learn from it.
    """
    order = np.random.default_rng([data.seed, epoch]).permutation(data.indices)
    starts = range(0, recipe.batch_size * batch_count(len(order), recipe), recipe.batch_size)
    return [order[start : start + recipe.batch_size] for start in starts]


def batch_count(film_count: int, recipe: Recipe) -> int:
    """Return how many batches an epoch over so many films has."""
    whole, rest = divmod(film_count, recipe.batch_size)
    count = whole + (rest > 1 or (rest == 1 and not whole))
    return min(count, recipe.limit_batches or count)


def epoch_batches(data: TrainingData, recipe: Recipe, epoch: int, ranks: Ranks = ONE_PROCESS) -> Iterator[Batch]:
    """Yield this process's part of every batch of an epoch, as images_bchw in channels-last order."""
    parts = [ranks.part_of(chunk) for chunk in epoch_chunks(data, recipe, epoch)]
    rows = [part.rows for part in parts]
    if recipe.augmentation == "none":
        images = _ahead(_plain_images(data.evaluation_set, recipe.preprocessing, chunk) for chunk in rows)
    else:
        images = augmented_images(data, recipe, epoch, rows)
    for images_bchw, part in zip(images, parts, strict=True):
        labels_b = torch.from_numpy(data.evaluation_set.labels_b[part.rows])
        yield Batch(inputs=images_bchw, labels_b=labels_b, weight=part.weight)


def images_of_rows(evaluation_set: EvaluationSet, rows: Indices, recipe: Recipe) -> Iterator[Tensor]:
    """Yield images_bchw of rows of the evaluation set, a batch at a time, unchanged."""
    starts = range(0, len(rows), recipe.batch_size)
    yield from _ahead(
        _plain_images(evaluation_set, recipe.preprocessing, rows[start : start + recipe.batch_size]) for start in starts
    )


def _plain_images(evaluation_set: EvaluationSet, preprocessing: Preprocessing, rows: Indices) -> Tensor:
    images_bhwc = normalised_pixels(evaluation_set.pixels_bhwc[rows], preprocessing)
    images = torch.from_numpy(images_bhwc).permute(0, 3, 1, 2)
    return images.pin_memory() if torch.cuda.is_available() else images


def _ahead(items: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield the items, each made in a thread while the network works on the one before."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = deque(pool.submit(next, items, None) for _ in range(_BATCHES_AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item


def augmented_images(data: TrainingData, recipe: Recipe, epoch: int, chunks: list[Indices]) -> Iterator[Tensor]:
    """Yield images_bchw of each chunk of rows, as augmented in `epoch`."""
    loader = DataLoader(
        _AugmentedFilms(data, recipe, epoch),
        batch_sampler=[chunk.tolist() for chunk in chunks],
        num_workers=_loader_processes(),
        generator=torch.Generator().manual_seed(0),  # Keeps the loader from drawing on the global one.
        pin_memory=torch.cuda.is_available(),
    )
    for images_bhwc in loader:
        yield images_bhwc.permute(0, 3, 1, 2)


def _loader_processes() -> int:
    """On the CPU a step keeps every core busy: with loader processes beside it, an epoch took 1.3 times as long."""
    return core_count() if torch.cuda.is_available() else 0


class _AugmentedFilms(Dataset[Tensor]):
    """The augmentation of an original film, drawn for each (seed, epoch, film) anew."""

    def __init__(self, data: TrainingData, recipe: Recipe, epoch: int) -> None:
        self._data = data
        self._preprocessing = recipe.preprocessing
        self._epoch = epoch
        self._augmentation = augmentation_named(recipe.augmentation, recipe.preprocessing)

    def __getitem__(self, row: int) -> Tensor:
        film = self._data.films.film(row)
        # Spreads (seed, epoch, film) over the whole range, so that neighbours do not share a stream.
        words = np.random.SeedSequence([self._data.seed, self._epoch, row]).generate_state(2, np.uint32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(words[0]) << 32 | int(words[1]))
            augmented = self._augmentation(film)
        pixels = np.asarray(augmented, dtype=np.uint8)
        pixels_hwc = pixels if pixels.ndim == 3 else np.broadcast_to(pixels[..., None], (*pixels.shape, 3))
        return torch.from_numpy(normalised_pixels(pixels_hwc[None], self._preprocessing)[0])
