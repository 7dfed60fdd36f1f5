"""Augmentation: exact through the cache, within its bounds, and the films it makes are still films."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from harness.core.cases import case_named
from harness.core.progress import SILENT
from harness.data.evaluation_set import ensured_evaluation_set
from harness.data.film_cache import ensured_film_cache
from harness.data.manifest import manifest_for_case
from train.augmentation import augmentation_named, random_exposure, random_view
from train.batches import epoch_batches, training_data
from train.recipes import recipe_for_case

_CASE = case_named("d2-resnet18-ce")


@pytest.mark.parametrize("name", ["study", "films"])
@pytest.mark.parametrize("side_px", [None, 100])
def test_batches_from_the_cache_equal_those_from_the_films_themselves(
    demo_data: Path, tmp_path: Path, name: Literal["study", "films"], side_px: int | None
) -> None:
    manifest = manifest_for_case(demo_data, _CASE)
    recipe = recipe_for_case("quick", _CASE, augmentation=name, batch_size=8, cache_side_px=side_px)
    evaluation_set = ensured_evaluation_set(tmp_path, manifest, recipe.preprocessing, SILENT)
    cache = ensured_film_cache(tmp_path / "cache", manifest, SILENT, side_px=side_px)
    assert cache is not None
    cached = training_data(manifest, evaluation_set, 3, cache=cache, recipe=recipe)
    uncached = replace(cached, films=replace(cached.films, cache=None))
    for one, other in zip(epoch_batches(cached, recipe, 1), epoch_batches(uncached, recipe, 1), strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels_b, other.labels_b)


@pytest.mark.parametrize("name", ["study", "films"])
def test_an_augmented_film_has_the_size_of_the_crop_whatever_the_films_shape(name: Literal["study", "films"]) -> None:
    preprocessing = recipe_for_case("quick", _CASE).preprocessing
    change = augmentation_named(name, preprocessing)
    for size in ((90, 200), (200, 90), (64, 64), (30, 40)):
        film = Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
        assert change(film).size == (preprocessing.crop_px, preprocessing.crop_px)


def test_exposure_keeps_the_order_of_gray_values_and_treats_all_channels_alike() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    for seed in range(20):
        torch.manual_seed(seed)
        gray = np.asarray(random_exposure(ramp)).astype(int)
        torch.manual_seed(seed)
        colour = np.asarray(random_exposure(ramp.convert("RGB")))
        assert (np.diff(gray[0]) >= 0).all()
        assert gray.max() > 150
        assert gray.min() < 100
        assert (colour == gray[..., None]).all()


def test_a_recipe_without_augmentation_has_no_business_here() -> None:
    with pytest.raises(AssertionError):
        augmentation_named("none", recipe_for_case("quick", _CASE).preprocessing)


def _numbers(draws: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next random numbers be these."""
    left = iter(draws)

    def drawn(self: torch.Tensor, low: float, high: float) -> torch.Tensor:
        value = next(left)
        assert low <= value <= high
        return self.fill_(value)

    monkeypatch.setattr(torch.Tensor, "uniform_", drawn)


def _film(width: int, height: int) -> Image.Image:
    """A smooth film whose gray values tell where each point lay: rising to the right, and less so downwards."""
    down, right = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    return Image.fromarray(np.rint(170 * right + 80 * down).astype(np.uint8))


def test_a_view_of_the_whole_film_is_the_film_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    _numbers([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], monkeypatch)
    film = _film(200, 200)
    view = np.asarray(random_view(film, 100)).astype(int)
    assert np.abs(view - np.asarray(film.resize((100, 100), Image.Resampling.BILINEAR)).astype(int)).max() <= 2


def test_a_view_is_mirrored_left_to_right_only(monkeypatch: pytest.MonkeyPatch) -> None:
    film = _film(200, 200)
    _numbers([0.8, 0.1, 0.0, 1.0, 0.2, -0.1], monkeypatch)
    straight = np.asarray(random_view(film, 100)).astype(int)
    _numbers([0.8, 0.1, 0.0, -1.0, 0.2, -0.1], monkeypatch)
    assert np.abs(np.asarray(random_view(film, 100)).astype(int)[:, ::-1] - straight).max() <= 1


def test_a_view_turns_by_the_angle_and_shows_the_share_of_the_area(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Image.fromarray(np.tile(np.linspace(0, 250, 400), (400, 1)).round().astype(np.uint8))  # Rises rightwards.
    _numbers([0.64, 0.0, 10.0, 1.0, 0.0, 0.0], monkeypatch)
    view = np.asarray(random_view(film, 100)).astype(float)
    right, down = np.gradient(view[20:80, 20:80])[::-1]
    # A side of 0.8 of 400 px on 100 px: 3.2 film px a step, each worth 250/399, along the turned axes.
    step = 0.8 * 400 / 100 * 250 / 399
    assert right.mean() == pytest.approx(step * np.cos(np.radians(10)), rel=0.02)
    assert abs(down.mean()) == pytest.approx(step * np.sin(np.radians(10)), rel=0.05)


def test_a_view_moves_with_the_offset_and_is_black_beyond_the_film(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Image.new("L", (100, 100), 200)
    _numbers([1.0, 0.0, 0.0, 1.0, 0.5, 0.0], monkeypatch)
    view = np.asarray(random_view(film, 100))
    assert (view[:, :90] == 200).all()
    assert (view[:, -2:] == 0).all()
