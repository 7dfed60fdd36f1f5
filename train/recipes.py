"""How a case is trained: everything about it that is not the case, the data or the seed.

A recipe is part of a run's identity, so changing one number makes another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict

from harness.core.cases import Case
from harness.core.contract import Preprocessing


class Recipe(BaseModel):
    """SGD with momentum. `augment` is the study's augmentation of dataset-1; `keep` says which epoch is the result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["published", "quick"]
    resize_px: int
    crop_px: int
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Literal["constant", "cosine"]
    momentum: float
    weight_decay: float
    augment: bool
    keep: Literal["last", "best"]

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(resize_px=self.resize_px, crop_px=self.crop_px)


# The study's own, silent points included: no scheduler, last epoch kept.
_PUBLISHED = Recipe(
    name="published",
    resize_px=256,
    crop_px=224,
    epochs=10,
    batch_size=64,
    learning_rate=1e-3,
    schedule="constant",
    momentum=0.9,
    weight_decay=0.0,
    augment=False,
    keep="last",
)
# The demo's: small images and few epochs from random numbers, so the steps are larger and end small.
_QUICK = Recipe(
    name="quick",
    resize_px=73,
    crop_px=64,
    epochs=6,
    batch_size=32,
    learning_rate=0.02,
    schedule="cosine",
    momentum=0.9,
    weight_decay=0.0,
    augment=False,
    keep="best",
)
# An epoch of a VGG-16 with 193 M parameters takes ten times as long as one of ResNet-18, and from random numbers it
# learns nothing in the time a demo has; it is there to be converted, and the gate says what it is worth.
_QUICK_VGG16_EPOCHS = 2
RECIPES: Mapping[str, Recipe] = MappingProxyType({"published": _PUBLISHED, "quick": _QUICK})


def recipe_for_case(
    name: str,
    case: Case,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
) -> Recipe:
    """Return a recipe with the case's augmentation and the overrides that were given."""
    changes: dict[str, object] = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        # The study augmented dataset-1 only; the quick recipe skips what costs a decode of every film every epoch.
        "augment": name == "published" and case.dataset == 1,
    }
    if name == "quick" and case.architecture == "vgg16" and epochs is None:
        changes["epochs"] = _QUICK_VGG16_EPOCHS
    return RECIPES[name].model_copy(update={key: value for key, value in changes.items() if value is not None})
