"""Training batches whose order and augmentation depend on nothing but (seed, epoch, film).

That is what makes an interrupted run continue to the same weights: there is no generator whose state could be lost,
and the number of loader processes changes nothing. Shapes: b images, c channels, h, w pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from harness.core.contract import Preprocessing
from harness.core.machine import core_count
from harness.data.decoding import decoded_film
from harness.data.evaluation_set import EvaluationSet
from harness.data.manifest import Manifest
from harness.data.preprocessing import images_from_pixels
from train.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What training draws from; `indices` are the rows of the train split, `paths` the films of all rows."""

    evaluation_set: EvaluationSet
    indices: npt.NDArray[np.int64]
    paths: tuple[Path, ...]
    seed: int


def training_data(manifest: Manifest, evaluation_set: EvaluationSet, seed: int) -> TrainingData:
    """Return the train split of a manifest."""
    return TrainingData(
        evaluation_set=evaluation_set,
        indices=evaluation_set.indices_of("train"),
        paths=tuple(manifest.film_path(row) for row in manifest.rows),
        seed=seed,
    )


def epoch_batches(data: TrainingData, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images_bchw, labels_b) of one epoch, every training film once.

    A last batch of one film is left out: batch normalisation cannot learn from it.
    """
    order = np.random.default_rng([data.seed, epoch]).permutation(data.indices)
    chunks = [order[start : start + recipe.batch_size] for start in range(0, len(order), recipe.batch_size)]
    if len(chunks) > 1 and len(chunks[-1]) == 1:
        chunks.pop()
    if recipe.augment:
        yield from _augmented_batches(data, recipe, epoch, chunks)
        return
    evaluation_set = data.evaluation_set
    for chunk in chunks:
        images_bchw = images_from_pixels(evaluation_set.pixels_bhwc[chunk], recipe.preprocessing)
        yield torch.from_numpy(images_bchw), torch.from_numpy(evaluation_set.labels_b[chunk])


def _augmented_batches(
    data: TrainingData, recipe: Recipe, epoch: int, chunks: list[npt.NDArray[np.int64]]
) -> Iterator[tuple[Tensor, Tensor]]:
    loader = DataLoader(
        _AugmentedFilms(data, recipe.preprocessing, epoch),
        batch_sampler=[chunk.tolist() for chunk in chunks],
        num_workers=core_count(),
        generator=torch.Generator().manual_seed(0),  # Keeps the loader from drawing on the global one.
    )
    yield from loader


class _AugmentedFilms(Dataset[tuple[Tensor, int]]):
    """The study's augmentation of the original film, drawn for each (seed, epoch, film) anew."""

    def __init__(self, data: TrainingData, preprocessing: Preprocessing, epoch: int) -> None:
        self._data = data
        self._preprocessing = preprocessing
        self._epoch = epoch
        self._augmentation = study_augmentation(preprocessing.crop_px)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        film = decoded_film(self._data.paths[index])
        # Spreads (seed, epoch, film) over the whole range, so that neighbours do not share a stream.
        words = np.random.SeedSequence([self._data.seed, self._epoch, index]).generate_state(2, np.uint32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(words[0]) << 32 | int(words[1]))
            augmented: Image.Image = self._augmentation(film)
        pixels_bhwc = np.asarray(augmented, dtype=np.uint8)[None]
        image_chw = torch.from_numpy(images_from_pixels(pixels_bhwc, self._preprocessing)[0])
        return image_chw, int(self._data.evaluation_set.labels_b[index])


def study_augmentation(crop_px: int) -> transforms.Compose:
    """Return the study's training transform of dataset-1, up to the uint8 image."""
    return transforms.Compose(
        [
            transforms.RandomRotation(30),
            transforms.RandomResizedCrop(crop_px),
            transforms.RandomHorizontalFlip(),
        ]
    )
