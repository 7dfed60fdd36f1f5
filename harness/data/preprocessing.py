"""The one preprocessing: training, export, bench and prediction all go through these two functions.

It is split where bytes are smallest: `pixels_from_film` ends in uint8 (what an evaluation set stores), and
`images_from_pixels` turns those into model input. NumPy and Pillow only, so that `bench` needs no torch; a test
holds it equal to torchvision's Resize, CenterCrop, ToTensor, Normalize.

Shapes: b images, h, w pixels, c channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.core.contract import Preprocessing

Pixels = npt.NDArray[np.uint8]
Float32s = npt.NDArray[np.float32]


def pixels_from_film(film: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Return pixels_hwc in uint8: the shorter side resized, then the centre cropped."""
    width_px, height_px = film.size
    short_px, long_px = sorted(film.size)
    # The longer side is truncated, as torchvision does.
    new_long_px = int(preprocessing.resize_px * long_px / short_px)
    new_size = (
        (preprocessing.resize_px, new_long_px) if width_px <= height_px else (new_long_px, preprocessing.resize_px)
    )
    resized = film.resize(new_size, Image.Resampling.BILINEAR)
    crop_px = preprocessing.crop_px
    left_px = round((new_size[0] - crop_px) / 2.0)
    top_px = round((new_size[1] - crop_px) / 2.0)
    return np.asarray(resized.crop((left_px, top_px, left_px + crop_px, top_px + crop_px)), dtype=np.uint8)


def images_from_pixels(pixels_bhwc: Pixels, preprocessing: Preprocessing) -> Float32s:
    """Return images_bchw in float32, contiguous: scaled to 0..1, then normalised per channel."""
    return np.ascontiguousarray(normalised_pixels(pixels_bhwc, preprocessing).transpose(0, 3, 1, 2))


def normalised_pixels(pixels_bhwc: Pixels, preprocessing: Preprocessing) -> Float32s:
    """Return images_bhwc in float32: the values of `images_from_pixels` in the order that channels-last networks take.

    Looked up in a table of the 256 values a channel can have: the same bits in a fifth of the time.
    """
    mean_c = np.array(preprocessing.mean, dtype=np.float32)
    std_c = np.array(preprocessing.std, dtype=np.float32)
    values_c = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    table_c = np.ascontiguousarray(((values_c - mean_c) / std_c).T)
    images_bhwc = np.empty(pixels_bhwc.shape, dtype=np.float32)
    for channel, table in enumerate(table_c):
        images_bhwc[..., channel] = table.take(pixels_bhwc[..., channel])
    return images_bhwc
