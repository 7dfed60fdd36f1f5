"""Random changes of a training film, up to the uint8 image; the one preprocessing follows.

Everything random draws on torch's global generator, which the caller has seeded for (seed, epoch, film). Every step
works on each channel by itself, so a gray film may go through as gray.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from harness.core.contract import Preprocessing
from train.recipes import Augmentation

FilmChange = Callable[[Image.Image], Image.Image]
_GAMMA = (0.7, 1.4)
_CONTRAST = (0.8, 1.25)
_BRIGHTNESS = (-0.08, 0.08)


def augmentation_named(name: Augmentation, preprocessing: Preprocessing) -> FilmChange:
    """Return a function from the original film to an image of `crop_px`."""
    assert name != "none", "films that are not changed come from the evaluation set"
    if name == "study":
        return study_augmentation(preprocessing.crop_px)
    return film_augmentation(preprocessing)


def study_augmentation(crop_px: int) -> FilmChange:
    """Return the study's training transform of dataset-1."""
    change: FilmChange = transforms.Compose(
        [
            transforms.RandomRotation(30),
            transforms.RandomResizedCrop(crop_px),
            transforms.RandomHorizontalFlip(),
        ]
    )
    return change


def film_augmentation(preprocessing: Preprocessing) -> FilmChange:
    """Return changes that a chest film really undergoes: position, turn and size of the patient, and exposure.

    Small turns, since nobody is filmed lying at 30 degrees; no flips of top and bottom and no colour. Left and right
    are exchanged as in CheXNet (arXiv 1711.05225): the heart changes sides, but none of the classes does.
    """
    change: FilmChange = transforms.Compose(
        [
            transforms.Resize(preprocessing.resize_px, InterpolationMode.BILINEAR),
            transforms.RandomAffine(10, translate=(0.05, 0.05), interpolation=InterpolationMode.BILINEAR),
            transforms.RandomResizedCrop(preprocessing.crop_px, scale=(0.5, 1.0), ratio=(0.85, 1.18)),
            transforms.RandomHorizontalFlip(),
            random_exposure,
        ]
    )
    return change


def random_exposure(film: Image.Image) -> Image.Image:
    """Return the film under another exposure and development: gamma, contrast about the middle, brightness."""
    low_high = (_GAMMA, _CONTRAST, _BRIGHTNESS)
    gamma, contrast, brightness = (float(torch.empty(1).uniform_(low, high)) for low, high in low_high)
    values = (np.linspace(0.0, 1.0, 256) ** gamma - 0.5) * contrast + 0.5 + brightness
    table = np.rint(255 * np.clip(values, 0.0, 1.0)).astype(np.uint8).tolist()
    return film.point(table * len(film.getbands()))
