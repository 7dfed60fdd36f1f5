"""What is agreed on between a model and the code around it: every field counts, in the hash and in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from harness.core.contract import Contract, Preprocessing

_PREPROCESSING = Preprocessing(resize_px=256, crop_px=224)
_CONTRACT = Contract(
    case="d2-resnet18-ce",
    class_names=("covid", "normal", "pneumonia"),
    label_mode="multiclass",
    preprocessing=_PREPROCESSING,
    synthetic=False,
)
# Fields of one possible value today; a second one must enter the hash by itself.
_ONE_VALUED = {"interpolation": "bicubic", "antialias": False, "channel_order": "BGR"}
_CHANGES: dict[str, Any] = {
    "resize_px": 72,
    "crop_px": 64,
    "mean": (0.485, 0.456, 0.407),
    "std": (0.229, 0.224, 0.2250001),
    "decoding_version": 2,
} | _ONE_VALUED


def test_every_field_of_the_preprocessing_has_a_change_below() -> None:
    assert set(_CHANGES) == set(Preprocessing.model_fields)


@pytest.mark.parametrize("field", sorted(_CHANGES))
def test_the_hash_changes_with_every_field(field: str) -> None:
    changed = _PREPROCESSING.model_copy(update={field: _CHANGES[field]})

    assert changed.sha256 != _PREPROCESSING.sha256


def test_equal_values_have_equal_hashes_however_they_were_made() -> None:
    again = Preprocessing.model_validate_json(_PREPROCESSING.model_dump_json())

    assert again == _PREPROCESSING
    assert again.sha256 == _PREPROCESSING.sha256
    assert len(again.sha256) == 64


@pytest.mark.parametrize(
    "change", [{"interpolation": "bicubic"}, {"antialias": False}, {"channel_order": "BGR"}, {"x": 1}]
)
def test_a_preprocessing_that_this_code_cannot_do_is_not_read(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Preprocessing.model_validate(_PREPROCESSING.model_dump() | change)


def test_the_metadata_is_text_from_which_the_contract_can_be_made_again() -> None:
    metadata = _CONTRACT.metadata()

    assert all(isinstance(value, str) for value in metadata.values())
    assert all(key.startswith("cxr_harness.") for key in metadata)
    again = Contract(
        case=metadata["cxr_harness.case"],
        class_names=tuple(json.loads(metadata["cxr_harness.class_names"])),
        label_mode=metadata["cxr_harness.label_mode"],  # type: ignore[arg-type]
        preprocessing=Preprocessing.model_validate_json(metadata["cxr_harness.preprocessing"]),
        synthetic=json.loads(metadata["cxr_harness.synthetic"]),
    )
    assert again == _CONTRACT
    assert metadata["cxr_harness.preprocessing_sha256"] == again.preprocessing.sha256


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"case": "d2-vgg16-ce"}, "case: d2-resnet18-ce against d2-vgg16-ce"),
        ({"class_names": ("normal", "covid", "pneumonia")}, "class names: "),
        ({"label_mode": "multilabel"}, "label mode: multiclass against multilabel"),
        ({"synthetic": True}, "synthetic: False against True"),
        ({"preprocessing": Preprocessing(resize_px=72, crop_px=64)}, "preprocessing: "),
    ],
)
def test_each_difference_is_told_in_words(update: dict[str, Any], words: str) -> None:
    (said,) = _CONTRACT.differences(_CONTRACT.model_copy(update=update))

    assert said.startswith(words)


def test_contracts_that_agree_have_no_differences() -> None:
    assert _CONTRACT.differences(_CONTRACT.model_copy()) == []
