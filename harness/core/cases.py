"""The eight cases of the study, and the two data sets they use.

A case names what is trained; how it is trained is a recipe (train/recipes.py), and where the images are is a
manifest (harness/data/manifest.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from harness.core.errors import UsageError

Architecture = Literal["resnet18", "vgg16"]
Trainable = Literal["head", "all"]
Loss = Literal["ce", "focal"]
LabelMode = Literal["multiclass", "multilabel"]


@dataclass(frozen=True, kw_only=True)
class DatasetKind:
    """One of the study's two data sets: its classes in index order, and the folder names that mean each."""

    number: int
    class_names: tuple[str, ...]
    synonyms: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"dataset{self.number}"


_COVID = ("covid", "covid-19", "covid19", "covid_19")
DATASETS: Mapping[int, DatasetKind] = MappingProxyType(
    {
        1: DatasetKind(
            number=1,
            class_names=("infected", "normal"),
            # The study's "infected" is mostly pneumonia: both finding classes belong to it.
            synonyms={"infected": "infected", "pneumonia": "infected", "normal": "normal"}
            | dict.fromkeys(_COVID, "infected"),
        ),
        2: DatasetKind(
            number=2,
            class_names=("covid", "normal", "pneumonia"),
            synonyms={"normal": "normal", "pneumonia": "pneumonia"} | dict.fromkeys(_COVID, "covid"),
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One experiment of the study. `parameter_count` covers all parameters, trainable or not."""

    name: str
    dataset: int
    architecture: Architecture
    trainable: Trainable
    loss: Loss
    parameter_count: int

    @property
    def class_names(self) -> tuple[str, ...]:
        return DATASETS[self.dataset].class_names


def _case(name: str, architecture: Architecture, trainable: Trainable, loss: Loss, parameter_count: int) -> Case:
    return Case(
        name=name,
        dataset=int(name[1]),
        architecture=architecture,
        trainable=trainable,
        loss=loss,
        parameter_count=parameter_count,
    )


CASES: Mapping[str, Case] = MappingProxyType(
    {
        case.name: case
        for case in (
            _case("d1-vgg16-fc", "vgg16", "head", "ce", 192_860_790),
            _case("d1-resnet18-fc", "resnet18", "head", "ce", 14_833_014),
            _case("d1-vgg16-all", "vgg16", "all", "ce", 192_860_790),
            _case("d1-resnet18-all", "resnet18", "all", "ce", 14_833_014),
            _case("d2-vgg16-ce", "vgg16", "all", "ce", 134_272_835),
            _case("d2-resnet18-ce", "resnet18", "all", "ce", 11_178_051),
            _case("d2-vgg16-focal", "vgg16", "all", "focal", 134_272_835),
            _case("d2-resnet18-focal", "resnet18", "all", "focal", 11_178_051),
        )
    }
)


def case_named(name: str) -> Case:
    """Return a case; raise UsageError with the nearest names where there is none."""
    if name in CASES:
        return CASES[name]
    near = difflib.get_close_matches(name.lower(), CASES, n=2, cutoff=0.5)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"There is no case named {name!r}.", hint=f"{guess}The cases are: {', '.join(CASES)}.")


def cases_from_names(names: tuple[str, ...]) -> list[Case]:
    """Expand `all`, `dataset1`, `dataset2` and case names, each case once and in the order first named."""
    chosen: dict[str, Case] = {}
    for name in names:
        if name == "all":
            members = list(CASES.values())
        elif name in {"dataset1", "dataset2"}:
            members = [case for case in CASES.values() if f"dataset{case.dataset}" == name]
        else:
            members = [case_named(name)]
        chosen.update({case.name: case for case in members})
    return list(chosen.values())
