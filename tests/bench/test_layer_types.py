"""An inspector's words for the types of layers, and what contradicts the precision asked for."""

from __future__ import annotations

import json

import pytest

from bench.backends.layer_types import departures, layer_types


def _inspection(*types: str, key: str = "Format/Datatype") -> str:
    return json.dumps({"Layers": [{"Name": "fp16 in a name", "Inputs": [{key: kind}]} for kind in types]})


@pytest.mark.parametrize(
    ("inspection", "types"),
    [
        (_inspection("Row major linear FP32"), {"fp32"}),
        (_inspection("Half", "Float", "Int8", "BFloat16", key="Datatype"), {"fp16", "fp32", "int8", "bf16"}),
        (_inspection("float16"), {"fp16"}),
        (_inspection("UInt8", "Int64", "Row major linear FP32"), {"fp32"}),
        ("", set()),
        ("not JSON", set()),
        ("[]", set()),
        ("{}", set()),
    ],
)
def test_layer_types_are_read_in_every_spelling(inspection: str, types: set[str]) -> None:
    assert layer_types(inspection) == types


@pytest.mark.parametrize(
    ("requested", "layers", "departs"),
    [
        ("fp32", {"fp32"}, False),
        ("fp32", {"fp32", "fp16"}, True),
        ("fp16", {"fp32", "fp16"}, False),
        ("fp16", {"fp32"}, True),
        ("fp16", {"fp16", "int8"}, True),
        ("fp16", {"fp16", "bf16"}, True),
        ("bf16", {"bf16", "fp32"}, False),
        ("bf16", {"bf16", "fp16"}, True),
        ("int8-u8s8", {"int8", "fp32"}, True),
        ("bf16", {"fp16"}, True),
        ("int8", {"int8", "fp16"}, False),
        ("int8", {"int8", "fp32"}, False),
        ("int8", {"fp16", "fp32"}, True),
        ("int8", {"fp32"}, True),
        ("int8", set(), False),
    ],
)
def test_layers_in_another_precision_than_requested_are_a_departure(
    requested: str, layers: set[str], departs: bool
) -> None:
    assert bool(departures(requested, layers)) is departs
