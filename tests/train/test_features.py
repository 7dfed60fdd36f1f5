"""A frozen trunk is run once a film, and the head comes out as if it had been run every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.core.cases import case_named
from harness.core.progress import SILENT
from train import features, run
from train.recipes import Recipe, recipe_for_case
from train.request import TrainRequest
from train.run import train_run
from train.sources import ImageSource, Source

_CASE = case_named("d1-resnet18-fc")


def _plain_source(request: TrainRequest, network: Any, data: Any, device: Any, ranks: Any, *_: object) -> Source:
    """The plain loop: trunk and head on every batch."""
    return ImageSource(network, request.case, data, request.recipe, device, ranks)


def _recipe(**changes: Any) -> Recipe:
    return recipe_for_case("quick", _CASE, epochs=3, batch_size=8, **changes)


@pytest.mark.parametrize("augmentation", ["none", "study"])
def test_the_head_equals_that_of_the_plain_loop(
    make_request: Callable[..., TrainRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    augmentation: str,
) -> None:
    recipe = _recipe(augmentation=augmentation)  # As many views as epochs.
    ours = train_run(make_request(tmp_path / "ours", case=_CASE.name, recipe=recipe), SILENT)
    monkeypatch.setattr(run, "_source", _plain_source)
    plain = train_run(make_request(tmp_path / "plain", case=_CASE.name, recipe=recipe), SILENT)
    left, right = load_file(ours.run.checkpoint), load_file(plain.run.checkpoint)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-4, atol=1e-6)
    moved = max(float((right[name] - plain_start).abs().max()) for name, plain_start in _start().items())
    assert moved > 1e-3, "a head that did not train would be equal too"
    assert ours.evaluation.ours["test"].confusion == plain.evaluation.ours["test"].confusion


def _start() -> dict[str, torch.Tensor]:
    from harness.core.models import model_from_case

    return {name: each for name, each in model_from_case(_CASE, seed=0).state_dict().items() if name.startswith("fc.")}


def _written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the name of every file of features that is made."""
    names: list[str] = []
    write = features.FrozenTrunk._write

    def recorded(self: Any, path: Path, name: str, *rest: Any) -> None:
        names.append(name)
        write(self, path, name, *rest)

    monkeypatch.setattr(features.FrozenTrunk, "_write", recorded)
    return names


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["view-001", "validation"]),
        ({"augmentation": "study"}, ["view-001", "validation", "view-002", "view-003"]),
        ({"augmentation": "study", "views": 2}, ["view-001", "validation", "view-002"]),
        ({"augmentation": "study", "views": 1}, ["view-001", "validation"]),
    ],
)
def test_the_trunk_sees_each_view_of_each_film_once(
    make_request: Callable[..., TrainRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    expected: list[str],
) -> None:
    names = _written(monkeypatch)
    train_run(make_request(tmp_path, case=_CASE.name, recipe=_recipe(**changes)), SILENT)
    assert names == expected


def test_a_view_that_is_used_once_does_not_stay_on_the_disk(
    make_request: Callable[..., TrainRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.ResumeFolder, "remove", lambda self: None)
    left = {}
    for views in (None, 2):
        recipe = _recipe(augmentation="study", views=views)
        folder = train_run(make_request(tmp_path / str(views), case=_CASE.name, recipe=recipe), SILENT).run.folder
        left[views] = sorted(path.name[:8] for path in (folder / "last" / "features").glob("view-*"))
    assert left == {None: ["view-003"], 2: ["view-001", "view-002"]}


def test_features_that_were_lost_or_cut_are_made_again(
    make_request: Callable[..., TrainRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk: list[features.FrozenTrunk] = []
    made = run.FrozenTrunk
    monkeypatch.setattr(run, "FrozenTrunk", lambda **fields: trunk.append(made(**fields)) or trunk[-1])
    monkeypatch.setattr(run.ResumeFolder, "remove", lambda self: None)  # Keeps the features.
    train_run(make_request(tmp_path, case=_CASE.name, recipe=_recipe()), SILENT)
    rows = trunk[0].data.evaluation_set.indices_of("validation")
    before = np.array(trunk[0].features_of_rows(rows))
    (path,) = trunk[0].folder.glob("validation-*.npy")
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_allclose(trunk[0].features_of_rows(rows), before, rtol=1e-4, atol=1e-5)
    path.unlink()
    np.testing.assert_allclose(trunk[0].features_of_rows(rows), before, rtol=1e-4, atol=1e-5)
