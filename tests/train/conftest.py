"""How the tests of training ask for a run: small, from random numbers, on the session's phantoms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.cases import case_named
from train.recipes import recipe_for_case
from train.request import TrainRequest

RequestMaker = Callable[..., TrainRequest]


@pytest.fixture(scope="session")
def make_request(demo_data: Path) -> RequestMaker:
    """Return a function of (runs folder, changes) that makes a request; `epochs` and `recipe` shape the recipe."""

    def make(runs_folder: Path, **changes: Any) -> TrainRequest:
        case = case_named(changes.pop("case", "d2-resnet18-ce"))
        recipe = changes.pop("recipe", None)
        epochs = changes.pop("epochs", 1)
        values: dict[str, Any] = {
            "data_folder": demo_data,
            "name": None,
            "loss": None,
            "label_mode": "multiclass",
            "weights": "random",
            "seed": 0,
            "force": False,
        }
        return TrainRequest(
            case=case,
            runs_folder=runs_folder,
            recipe=recipe or recipe_for_case("quick", case, epochs=epochs, batch_size=12),
            **(values | changes),
        )

    return make
