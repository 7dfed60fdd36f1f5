"""Random changes of a training film, up to the uint8 image; the one preprocessing follows.

Everything random draws on torch's global generator, which the caller has seeded for (seed, epoch, film). Every step
works on each channel by itself, so a gray film may go through as gray.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from harness.core.contract import Preprocessing
from train.recipes import Augmentation

FilmChange = Callable[[Image.Image], Image.Image]
# Share of the film's area, log of the change of its aspect, degrees, and the sign that mirrors.
_VIEW = ((0.6, 1.0), (-0.15, 0.15), (-10.0, 10.0), (-1.0, 1.0))
_SHIFT = 0.05
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

    def change(film: Image.Image) -> Image.Image:
        return random_exposure(random_view(film, preprocessing.crop_px))

    return change


def random_view(film: Image.Image, crop_px: int) -> Image.Image:
    """Return a square view of the film: part of its area, shifted, turned, a little stretched, perhaps mirrored.

    One resampling for all of it, which takes a fraction of the time of torchvision's four and blurs less. Bilinear
    without antialiasing: films should come in at most about twice `crop_px` wide (--cache-side).
    """
    area, log_ratio, turn, mirror = (float(torch.empty(1).uniform_(*bounds)) for bounds in _VIEW)
    off_x, off_y = (float(torch.empty(1).uniform_(-0.5, 0.5)) for _ in range(2))
    ratio = math.exp(log_ratio)
    width, height = film.width * math.sqrt(area * ratio), film.height * math.sqrt(area / ratio)
    centre_x = film.width / 2 + off_x * (abs(film.width - width) + _SHIFT * film.width)
    centre_y = film.height / 2 + off_y * (abs(film.height - height) + _SHIFT * film.height)
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    step_x, step_y = width / crop_px * (-1 if mirror < 0 else 1), height / crop_px
    # Output (x, y) -> film: columns of the matrix are the steps of one pixel to the right and one down.
    a, b, d, e = step_x * cosine, -step_y * sine, step_x * sine, step_y * cosine
    c = centre_x - (a + b) * crop_px / 2
    f = centre_y - (d + e) * crop_px / 2
    return film.transform((crop_px, crop_px), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)


def random_exposure(film: Image.Image) -> Image.Image:
    """Return the film under another exposure and development: gamma, contrast about the middle, brightness."""
    low_high = (_GAMMA, _CONTRAST, _BRIGHTNESS)
    gamma, contrast, brightness = (float(torch.empty(1).uniform_(low, high)) for low, high in low_high)
    values = (np.linspace(0.0, 1.0, 256) ** gamma - 0.5) * contrast + 0.5 + brightness
    table = np.rint(255 * np.clip(values, 0.0, 1.0)).astype(np.uint8).tolist()
    return film.point(table * len(film.getbands()))
