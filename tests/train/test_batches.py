"""Recipes, and batches that depend on nothing but seed, epoch and film."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from harness.core.cases import CASES, case_named
from harness.core.errors import DataError
from harness.core.progress import SILENT
from harness.data.decoding import decoded_film
from harness.data.evaluation_set import ensured_evaluation_set
from harness.data.manifest import manifest_for_case
from harness.data.preprocessing import images_from_pixels
from train import batches
from train.batches import OriginalFilms, TrainingData, epoch_batches, training_data
from train.ranks import Ranks
from train.recipes import RECIPES, Recipe, RecipeName, recipe_for_case

_CASE = case_named("d1-resnet18-fc")
_PLAIN = recipe_for_case("quick", _CASE, batch_size=8)
_AUGMENTED = _PLAIN.model_copy(update={"augmentation": "study"})


@pytest.fixture(scope="module")
def data(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    manifest = manifest_for_case(demo_data, _CASE)
    folder = tmp_path_factory.mktemp("evaluation-sets")
    evaluation_set = ensured_evaluation_set(folder, manifest, _PLAIN.preprocessing, SILENT)
    return training_data(manifest, evaluation_set, seed=3, recipe=_PLAIN)


def _reseeded(data: TrainingData, seed: int, rows: int | None = None) -> TrainingData:
    return replace(data, indices=data.indices[:rows], seed=seed)


def _joined(data: TrainingData, recipe: Recipe, epoch: int) -> tuple[Tensor, Tensor]:
    parts = list(epoch_batches(data, recipe, epoch))
    assert {part.weight for part in parts} == {1.0}
    # As tensors are laid out by default, so that comparing bytes compares pixels.
    images_bchw = torch.cat([part.inputs for part in parts]).contiguous(memory_format=torch.contiguous_format)
    return images_bchw, torch.cat([part.labels_b for part in parts])


def _same(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool((left == right).all())


def _sorted_rows(images_bchw: Tensor) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images_bchw)


@pytest.mark.parametrize("name", CASES)
def test_only_dataset_1_has_the_studys_augmentation_and_only_in_the_published_recipe(name: str) -> None:
    case = case_named(name)
    assert recipe_for_case("published", case).augmentation == ("study" if case.dataset == 1 else "none")
    assert recipe_for_case("quick", case).augmentation == "none"
    assert recipe_for_case("strong", case).augmentation == "films"


def test_the_published_recipe_is_the_studys() -> None:
    recipe = recipe_for_case("published", case_named("d1-vgg16-all"))
    study: dict[str, Any] = {
        "learning_rate": 1e-3,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "schedule": "constant",
        "epochs": 10,
        "batch_size": 64,
        "keep": "last",
        "resize_px": 256,
        "crop_px": 224,
    }
    assert {name: getattr(recipe, name) for name in study} == study


@pytest.mark.parametrize("name", RECIPES)
def test_a_wrong_override_is_refused_like_any_wrong_field(name: RecipeName) -> None:
    with pytest.raises(ValidationError):
        recipe_for_case(name, _CASE, optimiser="magic")


def test_what_is_given_overrides_the_recipe_and_the_rest_stays() -> None:
    recipe = recipe_for_case("quick", case_named("d2-vgg16-ce"), epochs=7, learning_rate=0.5, batch_size=4)
    assert (recipe.epochs, recipe.learning_rate, recipe.batch_size) == (7, 0.5, 4)
    assert recipe.momentum == RECIPES["quick"].momentum


@pytest.mark.parametrize("recipe", [_PLAIN, _AUGMENTED], ids=["plain", "augmented"])
def test_every_film_of_the_train_split_comes_once_an_epoch_with_its_own_label(
    data: TrainingData, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (
        recipe.augmentation == "study"
    ):  # Without the random part, the augmented path must give films that can be recognised.
        side_px = recipe.crop_px
        monkeypatch.setattr(
            batches, "augmentation_named", lambda name, preprocessing: lambda film: film.resize((side_px, side_px))
        )
        expected = torch.from_numpy(
            np.concatenate(
                [
                    images_from_pixels(
                        np.asarray(decoded_film(data.films.paths[i]).resize((side_px, side_px)))[None],
                        recipe.preprocessing,
                    )
                    for i in data.indices
                ]
            )
        )
    else:
        pixels_bhwc = data.evaluation_set.pixels_bhwc[data.indices]
        expected = torch.from_numpy(images_from_pixels(pixels_bhwc, recipe.preprocessing))
    label_of = {
        image.numpy().tobytes(): int(data.evaluation_set.labels_b[i])
        for image, i in zip(expected, data.indices, strict=True)
    }
    images_bchw, labels_b = _joined(data, recipe, epoch=1)
    assert _sorted_rows(images_bchw) == sorted(label_of)
    assert [label_of[image.numpy().tobytes()] for image in images_bchw] == labels_b.tolist()


def test_the_order_depends_on_the_epoch_and_on_the_seed_and_on_nothing_else(data: TrainingData) -> None:
    first, _ = _joined(data, _PLAIN, epoch=1)
    np.random.seed(7)  # the global generator is exactly what must not matter
    torch.manual_seed(7)
    again, _ = _joined(data, _PLAIN, epoch=1)
    next_epoch, _ = _joined(data, _PLAIN, epoch=2)
    other_seed, _ = _joined(_reseeded(data, 4), _PLAIN, epoch=1)
    assert _same(first, again)
    assert not _same(first, next_epoch)
    assert not _same(first, other_seed)
    assert _sorted_rows(first) == _sorted_rows(next_epoch) == _sorted_rows(other_seed)


def test_augmented_batches_are_the_same_on_repetition_and_for_any_number_of_loader_workers(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for workers in (0, 0, 1, 2):
        monkeypatch.setattr(batches, "_loader_processes", lambda workers=workers: workers)
        made.append(_joined(data, _AUGMENTED, epoch=2))
    for images_bchw, labels_b in made[1:]:
        assert _same(images_bchw, made[0][0])
        assert _same(labels_b, made[0][1])


def test_augmentation_is_drawn_anew_for_every_epoch_seed_and_film(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One film at all places: what differs within an epoch is the augmentation alone.
    films, first_row = data.films, int(data.indices[0])
    one = {"paths": films.paths[first_row], "sha256s": films.sha256s[first_row]}
    same = OriginalFilms(**{name: (value,) * len(films.paths) for name, value in one.items()})
    same_film = replace(data, indices=data.indices[:8], films=same)
    first, _ = _joined(same_film, _AUGMENTED, epoch=1)
    second, _ = _joined(same_film, _AUGMENTED, epoch=2)
    other_seed, _ = _joined(_reseeded(same_film, 4), _AUGMENTED, epoch=1)
    everything = _sorted_rows(first) + _sorted_rows(second) + _sorted_rows(other_seed)
    assert len(set(everything)) == 24


def test_drawing_batches_leaves_the_global_generator_alone(data: TrainingData) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    list(epoch_batches(data, _AUGMENTED, epoch=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_last_batch_of_one_film_is_left_out(data: TrainingData) -> None:
    nine = _reseeded(data, 3, rows=9)
    assert [len(batch.labels_b) for batch in epoch_batches(nine, _PLAIN, 1)] == [8]
    ten = _reseeded(data, 3, rows=10)
    assert [len(batch.labels_b) for batch in epoch_batches(ten, _PLAIN, 1)] == [8, 2]


def test_the_parts_of_two_processes_are_the_batch_of_one_and_none_goes_without(data: TrainingData) -> None:
    recipe = _PLAIN.model_copy(update={"batch_size": 3})
    whole = list(epoch_batches(data, recipe, 1))
    parts = [list(epoch_batches(data, recipe, 1, Ranks(rank=rank, count=4))) for rank in range(4)]
    for index, batch in enumerate(whole):
        mine = [each[index] for each in parts]
        assert all(len(part.labels_b) for part in mine)
        real = [part for part in mine if part.weight]
        assert _same(torch.cat([part.inputs for part in real]), batch.inputs)
        assert _same(torch.cat([part.labels_b for part in real]), batch.labels_b)
        assert sum(part.weight for part in mine) == pytest.approx(1.0)


def test_limit_batches_ends_an_epoch_early_and_keeps_its_order(data: TrainingData) -> None:
    limited = _PLAIN.model_copy(update={"limit_batches": 2})
    whole, short = list(epoch_batches(data, _PLAIN, 1)), list(epoch_batches(data, limited, 1))
    assert len(short) == 2
    assert all(_same(one.inputs, other.inputs) for one, other in zip(short, whole, strict=False))


def test_an_error_in_the_thread_that_makes_batches_reaches_the_reader(data: TrainingData) -> None:
    broken = replace(data, indices=np.array([10**9], dtype=np.int64))
    with pytest.raises(IndexError):
        list(epoch_batches(broken, _PLAIN, 1))


def _on_disk(data: TrainingData, folder: Path) -> tuple[TrainingData, list[Path]]:
    """The data with films that are copies, so that they may be damaged."""
    copies = [folder / f"{index}{path.suffix}" for index, path in enumerate(data.films.paths)]
    for path, copy in zip(data.films.paths, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    return replace(data, films=replace(data.films, paths=tuple(copies))), copies


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes() + b"0")])
def test_a_film_that_vanishes_or_changes_in_mid_run_is_named(
    data: TrainingData, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    copied, copies = _on_disk(data, tmp_path)
    list(epoch_batches(copied, _AUGMENTED, 1))
    victim = copies[int(data.indices[5])]
    damage(victim)
    with pytest.raises(DataError, match=str(victim)):
        list(epoch_batches(copied, _AUGMENTED, 2))
