"""The eight cases of the study by name, and how names on the command line become cases."""

from __future__ import annotations

import pytest

from harness.core.cases import CASES, DATASETS, case_named, cases_from_names
from harness.core.errors import UsageError

_EIGHT = {
    # id: (architecture, trainable, loss, dataset, parameters), from protocol.md
    "d1-vgg16-fc": ("vgg16", "head", "ce", 1, 192_860_790),
    "d1-resnet18-fc": ("resnet18", "head", "ce", 1, 14_833_014),
    "d1-vgg16-all": ("vgg16", "all", "ce", 1, 192_860_790),
    "d1-resnet18-all": ("resnet18", "all", "ce", 1, 14_833_014),
    "d2-vgg16-ce": ("vgg16", "all", "ce", 2, 134_272_835),
    "d2-resnet18-ce": ("resnet18", "all", "ce", 2, 11_178_051),
    "d2-vgg16-focal": ("vgg16", "all", "focal", 2, 134_272_835),
    "d2-resnet18-focal": ("resnet18", "all", "focal", 2, 11_178_051),
}


def test_the_eight_cases_are_those_of_the_protocol() -> None:
    described = {
        name: (case.architecture, case.trainable, case.loss, case.dataset, case.parameter_count)
        for name, case in CASES.items()
    }
    assert described == _EIGHT
    assert all(case.name == name for name, case in CASES.items())


def test_the_classes_stand_in_the_order_of_the_protocol() -> None:
    assert case_named("d1-vgg16-fc").class_names == ("infected", "normal")
    assert case_named("d2-vgg16-ce").class_names == ("covid", "normal", "pneumonia")


@pytest.mark.parametrize("number", [1, 2])
def test_every_class_is_named_by_a_synonym_and_every_synonym_names_a_class(number: int) -> None:
    dataset = DATASETS[number]
    assert set(dataset.synonyms.values()) == set(dataset.class_names)
    assert all(dataset.synonyms[name] == name for name in dataset.class_names)
    assert all(name == name.lower() for name in dataset.synonyms), "folders are compared in small letters"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("d2-resnet-focal", "d2-resnet18-focal"),
        ("d1-vgg16-ce", "d1-vgg16-fc"),
        ("d2-vgg-ce", "d2-vgg16-ce"),
    ],
)
def test_a_misspelt_case_is_answered_with_the_nearest_ones(typed: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"no case named '{typed}'") as caught:
        case_named(typed)

    guess = caught.value.hint.split("The cases are")[0]
    assert guess.startswith("Did you mean")
    assert meant in guess


def test_a_name_like_no_case_is_answered_with_all_of_them() -> None:
    with pytest.raises(UsageError) as caught:
        case_named("zzz")

    assert "Did you mean" not in caught.value.hint
    assert all(name in caught.value.hint for name in _EIGHT)


def test_all_and_the_data_sets_expand_to_their_cases() -> None:
    assert [case.name for case in cases_from_names(("all",))] == list(_EIGHT)
    assert [case.name for case in cases_from_names(("dataset1",))] == [name for name in _EIGHT if name[:2] == "d1"]
    assert [case.name for case in cases_from_names(("dataset2",))] == [name for name in _EIGHT if name[:2] == "d2"]


def test_a_case_named_twice_is_taken_once_where_it_was_first_named() -> None:
    names = [case.name for case in cases_from_names(("d2-vgg16-ce", "dataset2", "d1-vgg16-fc", "d2-vgg16-ce"))]

    assert names[0] == "d2-vgg16-ce"
    assert names[-1] == "d1-vgg16-fc"
    assert len(names) == len(set(names)) == 5


def test_one_wrong_name_among_right_ones_is_refused() -> None:
    with pytest.raises(UsageError, match="dataset3"):
        cases_from_names(("d2-vgg16-ce", "dataset3"))
