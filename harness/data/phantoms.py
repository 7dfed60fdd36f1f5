"""Chest-film-like phantoms: a labelled data set made anywhere, without a network and without patients.

Real collections of this kind carry their label in the film and not in the lung: in the image size, in the
exposure, in a border ring. So a phantom has two parts that share no random stream. The *film* (size, mode,
pose, anatomy, exposure, noise) is drawn from (seed, index) alone: the phantoms of one index are one film with
three findings. Only the *finding* knows the class, and it exists only inside the lungs. What it adds to
the mean of a lung and to the mean picture of its class is taken away again, so a linear model on a thumbnail
has nothing to hold on to, while number, shape and place of the opacities are plain to anything that looks.

Coordinates: x and y run from -1 to 1 over the shorter side of the film, y downwards; "lateral" is |x|, away
from the spine. A longer side shows more body and stretches nothing: a centre crop always holds both lungs.
Shapes: h, w = pixels; l = the two lungs, the one at the left of the picture first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from harness.core.files import write_atomically

PHANTOM_CLASSES = ("covid", "normal", "pneumonia")

# Computed in float32 where it costs time; the annotation leaves the width open, since a scalar may widen it.
Array = npt.NDArray[np.floating[Any]]

_SIDE_RANGE_PX = (224, 320)
_MODES = ("L", "RGB", "I;16")
_MODE_SHARES = (0.8, 0.12, 0.08)
_LUNG_TOP, _LUNG_BOTTOM, _LUNG_WIDTH = -0.72, 0.50, 0.66
_SIDES = (-1, 1)
_USUAL_CELLS, _USUAL_DRAWS = 48, 600


@dataclass(frozen=True, kw_only=True)
class _Thorax:
    """The anatomy of one film, before any finding: brightness 0..1 and where the lungs are."""

    brightness_hw: Array
    lungs_lhw: Array
    x_hw: Array
    y_hw: Array


def phantom_from_seed(class_name: str, seed: int, index: int) -> Image.Image:
    """Return one phantom; equal arguments give equal pixels and mode (`L`, `RGB` or `I;16`).

    Raises ValueError for a class that is not in PHANTOM_CLASSES, and for a negative seed or index.
    """
    if class_name not in PHANTOM_CLASSES:
        raise ValueError(f"There is no phantom class {class_name!r}; there are {', '.join(PHANTOM_CLASSES)}.")
    class_id = PHANTOM_CLASSES.index(class_name)
    film = np.random.default_rng(np.random.SeedSequence([seed, index, 0]))
    finding = np.random.default_rng(np.random.SeedSequence([seed, index, 1 + class_id]))
    low_px, high_px = _SIDE_RANGE_PX
    height_px, width_px = (int(side_px) for side_px in film.integers(low_px, high_px, size=2, endpoint=True))
    mode = _MODES[film.choice(len(_MODES), p=_MODE_SHARES)]
    thorax = _draw_thorax(film, height_px, width_px)
    lung_means_l = film.normal(0.12, 0.03, size=len(_SIDES))
    opacity_hw = _draw_finding(finding, class_name, thorax.x_hw, thorax.y_hw)
    opacity_hw = opacity_hw + _even_out(class_name, thorax.x_hw, thorax.y_hw)
    brightness_hw = thorax.brightness_hw.copy()
    for lung_hw, lung_mean in zip(thorax.lungs_lhw, lung_means_l, strict=True):
        # Each lung is as bright as its film says, whatever the finding added to it.
        added = float(np.sum(lung_hw * opacity_hw) / np.sum(lung_hw))
        brightness_hw += lung_hw * (opacity_hw - added + lung_mean)
    return _image_from_exposed(_expose(film, brightness_hw), mode)


def write_phantoms(
    out: Path, *, images_per_class: int, seed: int, on_image: Callable[[], None] = lambda: None
) -> list[Path]:
    """Write OUT/<class>/phantom-<index>.png, `images_per_class` of each class, and return the paths.

    Every three consecutive indices are dealt to the three classes in random order: neither the order of the
    names nor their remainder tells the class, and a larger set with the same seed contains the smaller one.
    `on_image` is called after each file. Raises ValueError for images_per_class < 1 and for a negative seed,
    ArtifactError where a file cannot be written.
    """
    if images_per_class < 1:
        raise ValueError(f"images_per_class must be 1 or more, not {images_per_class}.")
    paths = []
    for round_number in range(images_per_class):
        deal = np.random.default_rng(np.random.SeedSequence([seed, round_number]))
        for place, class_id in enumerate(deal.permutation(len(PHANTOM_CLASSES))):
            class_name, index = PHANTOM_CLASSES[class_id], len(PHANTOM_CLASSES) * round_number + place
            path = out / class_name / f"phantom-{index:06d}.png"
            image = phantom_from_seed(class_name, seed, index)
            write_atomically(path, functools.partial(image.save, format="PNG", compress_level=1))
            paths.append(path)
            on_image()
    return paths


def _soft(distance_hw: Array, edge: float) -> Array:
    """Return 0 outside, 1 inside and a ramp of width `edge` across distance 0."""
    return np.asarray(np.clip(distance_hw / edge + 0.5, 0, 1))


def _smooth_noise(rng: np.random.Generator, cells: int, shape_hw: tuple[int, ...]) -> Array:
    """Return noise of about unit variance whose grain is 1/`cells` of the film."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    size_px = (shape_hw[1], shape_hw[0])
    return 1.5 * np.asarray(coarse.resize(size_px, Image.Resampling.BICUBIC), dtype=np.float32)


def _draw_grid(rng: np.random.Generator, height_px: int, width_px: int) -> tuple[Array, Array]:
    """Return x and y of every pixel for a random shift, scale, rotation and lean of the patient."""
    half_px = min(height_px, width_px) / 2
    rows_h = ((np.arange(height_px) - (height_px - 1) / 2) / half_px).astype(np.float32)[:, None]
    columns_w = ((np.arange(width_px) - (width_px - 1) / 2) / half_px).astype(np.float32)[None, :]
    shift_x, shift_y = rng.uniform(-0.09, 0.09, size=2)
    zoom_x, zoom_y = rng.uniform(0.9, 1.08) * rng.uniform(0.96, 1.04, size=2)
    angle = rng.uniform(-0.1, 0.1)
    bow = rng.uniform(-0.05, 0.05)
    x_hw = (np.cos(angle) * columns_w + np.sin(angle) * rows_h - shift_x) / zoom_x
    y_hw = (np.cos(angle) * rows_h - np.sin(angle) * columns_w - shift_y) / zoom_y
    x_hw = (x_hw - bow * (y_hw**2 - 0.3)).astype(np.float32)
    # One side wider than the other, as in a patient who stands turned.
    turn = rng.uniform(-0.06, 0.06)
    return x_hw * (1 + turn * np.sign(x_hw)), y_hw.astype(np.float32)


def _lung_edge(y: Array) -> Array:
    """Return how far lateral a lung reaches at height y: narrow apex, wide base."""
    depth = np.clip((y - _LUNG_TOP) / (_LUNG_BOTTOM - _LUNG_TOP), 0, 1)
    return np.asarray(_LUNG_WIDTH * np.sqrt(1 - (1 - depth) ** 2.4), dtype=np.float32)


def _draw_lung(rng: np.random.Generator, side: int, x_hw: Array, y_hw: Array, heart_hw: Array) -> Array:
    lateral_hw = side * x_hw
    dome_hw = rng.uniform(0.36, 0.48) + rng.uniform(1.2, 2.2) * (lateral_hw - rng.uniform(0.28, 0.36)) ** 2
    inner = rng.uniform(0.13, 0.17)
    lung_hw = _soft(_lung_edge(y_hw) - lateral_hw, 0.05) * _soft(dome_hw - y_hw, 0.05)
    return lung_hw * _soft(lateral_hw - inner + 0.1 * np.minimum(y_hw + 0.3, 0), 0.07) * (1 - heart_hw)


def _draw_ribs(rng: np.random.Generator, lateral_hw: Array, y_hw: Array) -> Array:
    """Return bands: the posterior ribs fall away from the spine, the fainter anterior ends cross them."""
    spacing = rng.uniform(0.125, 0.165)
    droop = rng.uniform(0.25, 0.6)
    phase = rng.uniform(0, 1, size=2)
    arch_hw = y_hw + 0.12 * lateral_hw - droop * lateral_hw**2
    posterior_hw = np.cos(2 * np.pi * (arch_hw / spacing + phase[0]))
    anterior_hw = np.cos(2 * np.pi * ((y_hw - 0.55 * lateral_hw) / (1.15 * spacing) + phase[1]))
    ribs_hw = np.clip(posterior_hw - 0.1, 0, 0.5) + 0.45 * np.clip(anterior_hw - 0.3, 0, 0.5)
    within_hw = _soft(_lung_edge(y_hw + 0.04) + 0.05 - lateral_hw, 0.06) * _soft(0.6 - y_hw, 0.3)
    return np.asarray(rng.uniform(0.06, 0.13) * ribs_hw * within_hw, dtype=np.float32)


def _draw_vessels(rng: np.random.Generator, lateral_hw: Array, y_hw: Array) -> Array:
    """Return streaks that leave the hilum and thin out towards the edge of the lung."""
    across_hw, down_hw = lateral_hw - 0.17, y_hw + 0.05
    radius_hw = np.sqrt(across_hw**2 + down_hw**2)
    # A table of noise over (angle, distance), long in distance: read back in the plane it gives rays.
    rays = np.maximum(rng.standard_normal((40, 5)), 0)
    places = np.stack([(np.arctan2(down_hw, across_hw) + np.pi) * 6, radius_hw * 5])
    streaks_hw = ndimage.map_coordinates(rays, places, order=1, mode="nearest")
    return np.asarray(rng.uniform(0.1, 0.25) * streaks_hw * np.exp(-radius_hw / 0.2), dtype=np.float32)


def _draw_thorax(rng: np.random.Generator, height_px: int, width_px: int) -> _Thorax:
    x_hw, y_hw = _draw_grid(rng, height_px, width_px)
    lateral_hw = np.abs(x_hw)
    neck, torso, shoulder = rng.uniform((0.24, 0.86, -0.88), (0.34, 1.15, -0.76))
    flare_hw = 0.5 + 0.5 * np.tanh((y_hw - shoulder) / 0.1)
    body_hw = _soft(neck + (torso - neck + 0.08 * y_hw) * flare_hw - lateral_hw, 0.05)
    heart_x, heart_y, heart_size = rng.uniform((0.05, 0.16, 0.24), (0.12, 0.26, 0.32))
    tilted_hw = x_hw - heart_x - 0.35 * (y_hw - heart_y)
    heart_hw = _soft(1 - np.hypot(tilted_hw / heart_size, (y_hw - heart_y) / 0.34), 0.3)
    lungs_lhw = np.stack([_draw_lung(rng, side, x_hw, y_hw, heart_hw) for side in _SIDES])
    air_hw = lungs_lhw.sum(axis=0)
    spine_hw = _soft(0.085 - lateral_hw, 0.05) * (0.75 + 0.25 * np.cos(y_hw * rng.uniform(40, 52)))
    clavicle_at_hw = rng.uniform(-0.62, -0.54) - rng.uniform(0.1, 0.35) * lateral_hw + 0.2 * lateral_hw**2
    clavicle_hw = _soft(0.022 - np.abs(y_hw - clavicle_at_hw), 0.03) * _soft(0.72 - lateral_hw, 0.1)
    clavicle_hw *= _soft(lateral_hw - 0.07, 0.04)
    trachea_hw = _soft(0.04 - np.abs(x_hw), 0.04) * _soft(-0.3 - y_hw, 0.15)
    belly_hw = _soft(y_hw - 0.42, 0.3)
    # The heart lies in the mediastinum and on the diaphragm: the brightest of them counts, not their sum.
    middle_hw = np.maximum(0.2 * heart_hw, 0.17 * _soft(0.15 - lateral_hw, 0.14))
    brightness_hw = 0.58 + np.maximum(middle_hw, 0.2 * belly_hw) + 0.06 * spine_hw
    brightness_hw += 0.07 * clavicle_hw - 0.1 * trachea_hw
    brightness_hw -= air_hw * rng.uniform(0.42, 0.5)
    brightness_hw += _draw_ribs(rng, lateral_hw, y_hw) + _draw_vessels(rng, lateral_hw, y_hw) * air_hw
    brightness_hw += 0.02 * _smooth_noise(rng, 5, x_hw.shape)
    air_outside = rng.uniform(0.02, 0.15)
    brightness_hw = air_outside + (brightness_hw - air_outside) * body_hw
    return _Thorax(brightness_hw=brightness_hw, lungs_lhw=lungs_lhw, x_hw=x_hw, y_hw=y_hw)


_Patch = tuple[float, float, float, float]


def _draw_patch(rng: np.random.Generator, class_name: str, side: int, y: float) -> _Patch:
    """Return x, y and the two radii of one opacity: in mid-lung for pneumonia, at the edge for covid.

    The smallest radius, 0.09, is 3 pixels where the shorter side is 73.
    """
    edge = float(_lung_edge(np.asarray(y)))
    if class_name == "pneumonia":
        return side * rng.uniform(0.55, 0.75) * edge, y, rng.uniform(0.17, 0.24), rng.uniform(0.19, 0.28)
    radius = rng.uniform(0.09, 0.12)
    return side * (edge - rng.uniform(0.06, 0.14)), y, radius, radius * rng.uniform(0.85, 1.1)


def _draw_finding(rng: np.random.Generator, class_name: str, x_hw: Array, y_hw: Array) -> Array:
    """Return what the class adds: few and large on one side; many and peripheral on both; or a faint veil."""
    reach_hw = np.maximum(1 + 0.1 * _smooth_noise(rng, 14, x_hw.shape), 0.5)
    grain_hw = 1 + 0.1 * _smooth_noise(rng, 40, x_hw.shape)
    if class_name == "normal":
        # Without the veil, "the lung varies" would already mean "ill".
        return np.asarray(rng.uniform(0.02, 0.05) * _smooth_noise(rng, 4, x_hw.shape))
    patches = []
    if class_name == "pneumonia":
        side = int(rng.choice(_SIDES))
        heights = rng.uniform(-0.35, 0.22, size=rng.choice((1, 2), p=(0.7, 0.3)))
        patches += [_draw_patch(rng, class_name, side, y) for y in heights]
    else:
        for side in _SIDES:
            count = rng.integers(2, 4, endpoint=True)
            # One patch in each of `count` equal stretches: patches that merge would be one large one.
            heights = -0.42 + 0.78 * (np.arange(count) + rng.uniform(0.2, 0.8, size=count)) / count
            patches += [_draw_patch(rng, class_name, side, y) for y in heights]
    opacity_hw = np.zeros_like(x_hw)
    for x, y, radius_x, radius_y in patches:
        distance_hw = np.hypot((x_hw - x) / radius_x, (y_hw - y) / radius_y) / reach_hw
        opacity_hw = np.maximum(opacity_hw, np.exp(-0.7 * distance_hw**4))
    return np.asarray(rng.uniform(0.42, 0.5) * opacity_hw * grain_hw)


@functools.cache
def _usual_finding(class_name: str) -> Array:
    """Return the mean of many findings of one class on a coarse grid over -1..1, the same on both sides."""
    axis = np.linspace(-1, 1, _USUAL_CELLS, dtype=np.float32)
    x_hw, y_hw = np.meshgrid(axis, axis)
    rng = np.random.default_rng(0)
    mean_hw = np.mean([_draw_finding(rng, class_name, x_hw, y_hw) for _ in range(_USUAL_DRAWS)], axis=0)
    return np.asarray(ndimage.gaussian_filter((mean_hw + mean_hw[:, ::-1]) / 2, 1))


def _even_out(class_name: str, x_hw: Array, y_hw: Array) -> Array:
    """Return the haze that makes the mean pictures equal: what one class does in patches, all do evenly.

    Equal means leave a linear model without a direction. Lungs of equal brightness do not: then logistic
    regression on 16 x 16 thumbnails still reached 0.68, from the mean picture of the lung's edge.
    """
    usual = {name: _usual_finding(name) for name in PHANTOM_CLASSES}
    haze = np.mean(list(usual.values()), axis=0) - usual[class_name]
    cells = (np.stack([y_hw, x_hw]) + 1) / 2 * (_USUAL_CELLS - 1)
    return np.asarray(ndimage.map_coordinates(haze, cells, order=1, mode="nearest"), dtype=np.float32)


def _expose(rng: np.random.Generator, brightness_hw: Array) -> Array:
    """Return the film 0..1 after blur, gamma, gain, offset and noise, none of which looks at the picture."""
    blurred_hw = ndimage.gaussian_filter(brightness_hw, rng.uniform(0.4, 1.0))
    toned_hw = np.clip(blurred_hw, 0, 1.2) ** rng.uniform(0.85, 1.2)
    exposed_hw = toned_hw * rng.uniform(0.85, 1.1) + rng.uniform(-0.02, 0.1)
    noise_hw = rng.standard_normal(exposed_hw.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.025))
    return np.asarray(np.clip(exposed_hw + noise_hw, 0, 1), dtype=np.float32)


def _image_from_exposed(exposed_hw: Array, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.round(exposed_hw * 65535).astype(np.uint16))
    image = Image.fromarray(np.round(exposed_hw * 255).astype(np.uint8))
    return image if mode == "L" else image.convert(mode)
