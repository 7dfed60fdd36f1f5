"""The made-up image of the golden pair: no mistake in its handling leaves it the same."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from harness.core.passport import golden_pair
from harness.data.golden import pair_pixels

_SIDES_PX = [64, 224]


@pytest.mark.parametrize("crop_px", _SIDES_PX)
def test_no_flip_rotation_or_exchange_of_channels_leaves_the_image_the_same(crop_px: int) -> None:
    pixels_hwc = pair_pixels(crop_px)
    assert (pixels_hwc.shape, pixels_hwc.dtype) == ((crop_px, crop_px, 3), np.uint8)
    turned = [np.rot90(image, turns) for image in (pixels_hwc, pixels_hwc[:, ::-1]) for turns in range(4)]
    seen = {turned_hwc[..., order].tobytes() for turned_hwc in turned for order in permutations(range(3))}
    assert len(seen) == 8 * 6, "all handlings give different images"


@pytest.mark.parametrize("crop_px", _SIDES_PX)
def test_a_mistake_moves_many_pixels_by_more_than_rounding_does(crop_px: int) -> None:
    pixels_hwc = pair_pixels(crop_px).astype(np.int64)
    for wrong_hwc in (pixels_hwc[::-1], pixels_hwc[:, ::-1], pixels_hwc.swapaxes(0, 1), pixels_hwc[..., ::-1]):
        assert np.abs(wrong_hwc - pixels_hwc).mean() > 4


@pytest.mark.parametrize("crop_px", _SIDES_PX)
def test_the_image_is_the_same_every_time_uses_the_range_and_is_small_as_text(crop_px: int) -> None:
    pixels_hwc = pair_pixels(crop_px)
    assert pair_pixels(crop_px).tobytes() == pixels_hwc.tobytes()
    assert np.ptp(pixels_hwc) > 150
    pair = golden_pair(pixels_hwc, np.zeros(3, dtype=np.float32))
    assert len(pair.png_base64) < 60_000
    np.testing.assert_array_equal(pair.pixels_hwc(), pixels_hwc)
