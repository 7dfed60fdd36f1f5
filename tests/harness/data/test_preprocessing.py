"""The preprocessing is torchvision's Resize, CenterCrop, ToTensor, Normalize, without torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from harness.core.contract import Preprocessing
from harness.data.preprocessing import images_from_pixels, pixels_from_film

_FULL = Preprocessing(resize_px=256, crop_px=224)
_SMALL = Preprocessing(resize_px=73, crop_px=64)


def _film(size: tuple[int, int]) -> Image.Image:
    pixels_hwc = np.random.default_rng(size[0] * 1000 + size[1]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels_hwc)


@pytest.mark.parametrize(
    "size",
    [(255, 301), (301, 255), (257, 257), (256, 256), (256, 999), (1023, 333), (3, 5), (1, 1), (97, 31), (640, 479)],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
@pytest.mark.parametrize("preprocessing", [_FULL, _SMALL], ids=["224 px", "64 px"])
def test_the_preprocessing_equals_torchvisions(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    film = _film(size)
    cropped = transforms.Compose(
        [transforms.Resize(preprocessing.resize_px), transforms.CenterCrop(preprocessing.crop_px)]
    )(film)
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)])

    pixels_hwc = pixels_from_film(film, preprocessing)
    images_bchw = images_from_pixels(pixels_hwc[None], preprocessing)

    np.testing.assert_array_equal(pixels_hwc, np.asarray(cropped))
    assert torch.equal(torch.from_numpy(images_bchw[0]), normalise(cropped))


def test_the_images_are_what_a_runtime_takes_without_another_copy() -> None:
    pixels_bhwc = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    images_bchw = images_from_pixels(pixels_bhwc, _SMALL)

    assert images_bchw.dtype == np.float32
    assert images_bchw.shape == (2, 3, 64, 64)
    assert images_bchw.flags.c_contiguous


def test_the_channels_are_normalised_each_by_its_own_mean() -> None:
    images_bchw = images_from_pixels(np.full((1, 1, 1, 3), 255, dtype=np.uint8), _SMALL)

    expected = [(1 - mean) / std for mean, std in zip(_SMALL.mean, _SMALL.std, strict=True)]
    np.testing.assert_allclose(images_bchw.ravel(), expected, rtol=1e-6)
