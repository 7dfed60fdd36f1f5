"""How a case is trained: everything about it that is not the case, the data or the seed.

A recipe is part of a run's identity, so changing one number makes another run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from harness.core.cases import Case
from harness.core.contract import DECODING_VERSION, Preprocessing

# Raised whenever train/augmentation.py changes what is drawn, so that no run goes on with other films.
AUGMENTATION_VERSION = 2
_log = logging.getLogger(__name__)
RecipeName = Literal["published", "quick", "strong"]
Augmentation = Literal["none", "study", "films"]
Precision = Literal["fp32", "bf16"]


class Recipe(BaseModel):
    """Everything that decides a training beside case, data and seed.

    `warm_up_epochs` raise the learning rate from nothing; `averaging` is the decay per step of an exponential moving
    average of the weights, which is then what is validated and kept (0: none). `mixup` is the a of Beta(a, a), from
    which the shares of two blended images are drawn (0: none). `views` is how many augmentations of
    each film a frozen trunk is run on (None: a new one every epoch, as without stored features). `patience` ends a
    run after so many epochs without a better one, by macro-F1 on validation, or by the training loss where that has no
    labels. `keep` says which epoch is the result. The two versions are those of the rules by which films are decoded
    and augmented.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: RecipeName
    resize_px: int
    crop_px: int
    epochs: int
    batch_size: int
    optimiser: Literal["sgd", "adamw"]
    learning_rate: float
    schedule: Literal["constant", "cosine"]
    warm_up_epochs: int
    momentum: float
    weight_decay: float
    label_smoothing: float
    class_weights: Literal["none", "balanced"]
    averaging: float
    mixup: float
    augmentation: Augmentation
    views: int | None
    patience: int | None
    keep: Literal["last", "best"]
    precision: Precision
    cache_side_px: int | None
    limit_batches: int | None
    deterministic: bool
    decoding_version: int = DECODING_VERSION
    augmentation_version: int = AUGMENTATION_VERSION

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
    optimiser="sgd",
    learning_rate=1e-3,
    schedule="constant",
    warm_up_epochs=0,
    momentum=0.9,
    weight_decay=0.0,
    label_smoothing=0.0,
    class_weights="none",
    averaging=0.0,
    mixup=0.0,
    augmentation="none",
    views=None,
    patience=None,
    keep="last",
    precision="fp32",
    cache_side_px=None,
    limit_batches=None,
    deterministic=False,
)
# The demo's: small images and few epochs from random numbers, so the steps are larger and end small.
_QUICK = _PUBLISHED.model_copy(
    update={
        "name": "quick",
        "resize_px": 73,
        "crop_px": 64,
        "epochs": 6,
        "batch_size": 32,
        "learning_rate": 0.02,
        "schedule": "cosine",
        "keep": "best",
    }
)
# The field's current practice for some hundred films and random initial weights, within minutes on two cores.
_STRONG = _PUBLISHED.model_copy(
    update={
        "name": "strong",
        "resize_px": 128,
        "crop_px": 128,
        "epochs": 110,
        "batch_size": 16,
        "optimiser": "adamw",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warm_up_epochs": 3,
        "weight_decay": 0.05,
        "class_weights": "balanced",
        "averaging": 0.995,
        "mixup": 0.3,
        "augmentation": "films",
        "cache_side_px": 256,
    }
)
# An epoch of a VGG-16 with 193 M parameters takes ten times as long as one of ResNet-18, and from random numbers it
# learns nothing in the time a demo has; it is there to be converted, and the gate says what it is worth.
_QUICK_VGG16_EPOCHS = 2
RECIPES: Mapping[RecipeName, Recipe] = MappingProxyType({"published": _PUBLISHED, "quick": _QUICK, "strong": _STRONG})


def recipe_for_case(name: RecipeName, case: Case, **overrides: Any) -> Recipe:
    """Return a recipe as it applies to a case, with the overrides that are not None.

    The study augmented dataset-1 only; the quick recipe skips what costs a pass over every film every epoch.
    """
    changes: dict[str, object] = {}
    if name == "published" and case.dataset == 1:
        changes["augmentation"] = "study"
    if name == "quick" and case.architecture == "vgg16":
        changes["epochs"] = _QUICK_VGG16_EPOCHS
    changes |= {key: value for key, value in overrides.items() if value is not None}
    augmented = changes.get("augmentation", RECIPES[name].augmentation) != "none"
    for option, decides in (("views", augmented and case.trainable == "head"), ("cache_side_px", augmented)):
        if option in changes and not decides:  # Or it would make another run of the same weights.
            _log.warning("%s: %s has no effect here and is left out.", case.name, option)
            del changes[option]
    unknown = set(changes) - set(Recipe.model_fields)
    assert not unknown, f"no such fields of a recipe: {unknown}"
    # Not model_copy: overrides come from a person and are checked like the rest.
    return Recipe.model_validate(RECIPES[name].model_dump() | changes)
