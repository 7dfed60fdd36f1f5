"""The phantoms teach what they are meant to teach: findings, and nothing but findings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from harness.data.phantoms import PHANTOM_CLASSES, phantom_from_seed, write_phantoms

Pixels = npt.NDArray[np.floating[Any]]

_TRAIN_COUNT, _TEST_COUNT = 450, 210


def _gray(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips 16 bits to white.
    if image.mode == "I;16":
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image.convert("L")


def _thumbnail(image: Image.Image, side_px: int) -> Pixels:
    small = image.resize((side_px, side_px), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float32) / 255


def _crop(image: Image.Image) -> Pixels:
    """Resize the shorter side to 73 px and cut the middle 64 x 64, as the demo does."""
    scale = 73 / min(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (small.width - 64) // 2, (small.height - 64) // 2
    return np.asarray(small.crop((left, top, left + 64, top + 64)), dtype=np.float32) / 255


@pytest.fixture(scope="module")
def films() -> list[Image.Image]:
    """Films of three classes in turn, no two of them of one index."""
    count = _TRAIN_COUNT + _TEST_COUNT
    return [_gray(phantom_from_seed(PHANTOM_CLASSES[index % 3], 7, index)) for index in range(count)]


@pytest.fixture(scope="module")
def labels() -> npt.NDArray[np.int64]:
    return np.arange(_TRAIN_COUNT + _TEST_COUNT) % 3


def _linear_accuracy(features: Pixels, labels: npt.NDArray[np.int64]) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000))
    model.fit(features[:_TRAIN_COUNT], labels[:_TRAIN_COUNT])
    return float(model.score(features[_TRAIN_COUNT:], labels[_TRAIN_COUNT:]))


def _small_cnn() -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels_in, channels_out in ((1, 16), (16, 32), (32, 64), (64, 64)):
        convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))


def _cnn_accuracy(images: Pixels, labels: npt.NDArray[np.int64]) -> float:
    epochs, batch_size = 12, 30
    inputs, targets = (torch.from_numpy(images)[:, None] - 0.5) / 0.25, torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _small_cnn()
        optimizer = torch.optim.Adam(model.parameters())
        # The rate falls to nothing at the end, so that the last epoch is not a lucky or an unlucky one.
        steps = epochs * _TRAIN_COUNT // batch_size
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
        for _ in range(epochs):
            for batch in torch.randperm(_TRAIN_COUNT).reshape(-1, batch_size):
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(model(inputs[batch]), targets[batch]))
                optimizer.step()
                scheduler.step()
    model.eval()
    with torch.no_grad():
        guesses = model(inputs[_TRAIN_COUNT:]).argmax(dim=1)
    return float((guesses == targets[_TRAIN_COUNT:]).float().mean())


@pytest.mark.parametrize("class_name", PHANTOM_CLASSES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_or_index_another_film(class_name: str) -> None:
    first, again = phantom_from_seed(class_name, 3, 5), phantom_from_seed(class_name, 3, 5)
    assert (first.mode, first.size, first.tobytes()) == (again.mode, again.size, again.tobytes())
    assert phantom_from_seed(class_name, 4, 5).tobytes() != first.tobytes()
    assert phantom_from_seed(class_name, 3, 6).tobytes() != first.tobytes()


def test_every_class_is_written_into_its_folder_and_can_be_read(tmp_path: Path) -> None:
    calls: list[None] = []
    paths = write_phantoms(tmp_path, images_per_class=4, seed=1, on_image=lambda: calls.append(None))
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    assert len(calls) == len(paths) == len({path.name for path in paths}) == 12
    for class_name in PHANTOM_CLASSES:
        assert sum(path.parent == tmp_path / class_name for path in paths) == 4
    for path in paths:
        expected = phantom_from_seed(path.parent.name, 1, int(path.stem.removeprefix("phantom-")))
        with Image.open(path) as image:
            assert (image.mode, image.tobytes()) == (expected.mode, expected.tobytes())


def test_writing_again_changes_nothing_and_a_larger_set_contains_the_smaller(tmp_path: Path) -> None:
    small = {path: path.read_bytes() for path in write_phantoms(tmp_path, images_per_class=2, seed=1)}
    large = write_phantoms(tmp_path, images_per_class=3, seed=1)
    assert set(small) < set(large)
    assert all(path.read_bytes() == content for path, content in small.items())


def test_the_number_in_a_file_name_does_not_tell_the_class(tmp_path: Path) -> None:
    paths = write_phantoms(tmp_path, images_per_class=30, seed=0)
    remainders = {(path.parent.name, int(path.stem.removeprefix("phantom-")) % 3) for path in paths}
    assert len(remainders) == 9


def test_size_mode_and_border_of_an_index_are_the_same_in_every_class() -> None:
    modes, sizes = set(), set()
    for index in range(40):
        covid, normal, pneumonia = (phantom_from_seed(class_name, 2, index) for class_name in PHANTOM_CLASSES)
        assert covid.size == normal.size == pneumonia.size
        assert covid.mode == normal.mode == pneumonia.mode
        modes.add(normal.mode)
        sizes.add(normal.size)
        outside = np.ones((normal.height, normal.width), dtype=bool)
        outside[8:-8, 8:-8] = False
        border = np.asarray(normal)[outside]
        assert np.array_equal(np.asarray(covid)[outside], border)
        assert np.array_equal(np.asarray(pneumonia)[outside], border)
    assert modes == {"L", "RGB", "I;16"}
    assert len(sizes) > 30
    assert all(224 <= side_px <= 320 for size in sizes for side_px in size)


def test_a_border_ring_and_global_statistics_carry_no_label(
    films: list[Image.Image], labels: npt.NDArray[np.int64]
) -> None:
    thumbnails = np.stack([_thumbnail(film, 32) for film in films])
    ring = np.ones((32, 32), dtype=bool)
    ring[4:-4, 4:-4] = False
    # Chance is 1/3 with a standard error of 0.033.
    assert _linear_accuracy(thumbnails[:, ring], labels) < 0.47
    statistics = np.stack([thumbnails.mean(axis=(1, 2)), thumbnails.std(axis=(1, 2))], axis=1)
    assert _linear_accuracy(statistics, labels) < 0.47


def test_a_small_cnn_learns_what_a_linear_model_on_thumbnails_cannot(
    films: list[Image.Image], labels: npt.NDArray[np.int64]
) -> None:
    linear = _linear_accuracy(np.stack([_thumbnail(film, 16).ravel() for film in films]), labels)
    cnn = _cnn_accuracy(np.stack([_crop(film) for film in films]), labels)
    assert linear < 0.6
    assert cnn > 0.85
    assert cnn - linear > 0.2


def test_an_unknown_class_and_an_empty_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no phantom class 'influenza'"):
        phantom_from_seed("influenza", 0, 0)
    with pytest.raises(ValueError, match="images_per_class"):
        write_phantoms(tmp_path, images_per_class=0, seed=0)
    assert not list(tmp_path.iterdir())
