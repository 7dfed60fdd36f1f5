"""What travels inside an exported model comes out as it went in, and a difference is told in words."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from harness.core.contract import Contract, Preprocessing
from harness.core.operating_point import OperatingPoint
from harness.core.passport import GoldenPair, Passport, golden_pair
from harness.core.variants import Variant
from harness.data.golden import pair_pixels

_VARIANT = Variant(precision="int8", probabilities=True)


@pytest.fixture
def passport() -> Passport:
    return Passport(
        contract=Contract(
            case="d2-resnet18-ce",
            class_names=("covid", "normal", "pneumonia"),
            label_mode="multiclass",
            preprocessing=Preprocessing(resize_px=72, crop_px=64),
            synthetic=True,
        ),
        checkpoint_sha256="ab" * 32,
        operating_point=OperatingPoint(temperature=1.234, threshold=0.4321, validation_images=99),
        pair=golden_pair(pair_pixels(64), np.array([0.1, -2.5, 1 / 3], dtype=np.float32)),
    )


def test_everything_in_the_metadata_reads_back(passport: Passport) -> None:
    metadata = passport.metadata(_VARIANT)
    assert metadata["cxr_harness.variant"] == "int8-prob"
    assert metadata["cxr_harness.checkpoint_sha256"] == passport.checkpoint_sha256
    assert passport.contract.metadata().items() <= metadata.items()
    point = OperatingPoint.model_validate_json(metadata["cxr_harness.operating_point"])
    assert point == passport.operating_point
    assert GoldenPair.model_validate_json(metadata["cxr_harness.golden_pair"]) == passport.pair
    assert Passport.model_validate_json(passport.model_dump_json()) == passport


def test_the_image_and_its_answer_survive_to_the_bit(passport: Passport) -> None:
    pair = GoldenPair.model_validate_json(passport.metadata(_VARIANT)["cxr_harness.golden_pair"])
    np.testing.assert_array_equal(pair.pixels_hwc(), pair_pixels(64))
    assert np.array(pair.logits, dtype=np.float32).tolist() == [np.float32(0.1), -2.5, np.float32(1 / 3)]
    assert base64.b64decode(pair.png_base64).startswith(b"\x89PNG")


def test_its_own_metadata_is_no_problem_nor_is_a_runtime_that_reads_none(passport: Passport) -> None:
    others = {"something.else": "of another tool"}
    assert passport.problems(passport.metadata(_VARIANT) | others, _VARIANT) == []
    assert passport.problems(None, _VARIANT) == []


def test_every_difference_is_told_by_name(passport: Passport) -> None:
    metadata = passport.metadata(_VARIANT)
    assert len(passport.problems({}, _VARIANT)) == len(metadata)
    for key in metadata:
        (problem,) = passport.problems(metadata | {key: "other"}, _VARIANT)
        assert problem.startswith(f"the file's own {key.removeprefix('cxr_harness.')} is other, the run's is ")
        assert len(problem) < 600
    (problem,) = passport.problems(metadata, Variant(precision="int8"))
    assert "variant is int8-prob, the run's is int8" in problem


@pytest.mark.parametrize(
    "change",
    [{"mean": (0.5, 0.5, 0.5)}, {"std": (1.0, 1.0, 1.0)}, {"resize_px": 73}],
    ids=lambda change: next(iter(change)),
)
def test_another_preprocessing_is_a_problem(passport: Passport, change: dict[str, Any]) -> None:
    preprocessing = passport.contract.preprocessing.model_copy(update=change)
    other = passport.model_copy(
        update={"contract": passport.contract.model_copy(update={"preprocessing": preprocessing})}
    )
    problems = other.problems(passport.metadata(_VARIANT), _VARIANT)
    assert any(json.dumps(next(iter(change))) in problem for problem in problems)
