"""What types an engine's layers run in, from an inspector's JSON, and whether that is what was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# How inspectors of several versions spell a layer's type; the longer spelling first. UInt8 is the pixels', no layer's.
_LAYER_TYPE = re.compile(r"bfloat16|bf16|float16|fp16|half|float32|fp32|float|(?<!u)int8")
_SPELLINGS = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
}
# Beside fp32. What is not quantised of an int8 model may be in half precision.
_ALLOWED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "fp32": frozenset(),
        "fp16": frozenset({"fp16"}),
        "bf16": frozenset({"bf16"}),
        "int8": frozenset({"int8", "fp16", "bf16"}),
    }
)


def layer_types(inspection: str) -> set[str]:
    """Return the types (fp32, fp16, bf16, int8) of the layers in an inspector's JSON, if it tells any.

    The key changed between versions ("Format/Datatype" became "Format" and "Datatype"), so any key with
    "datatype" counts.
    """
    try:
        layers = json.loads(inspection).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return set()
    return _types_within(layers)


def _types_within(node: Any) -> set[str]:
    found: set[str] = set()
    if isinstance(node, list):
        for item in node:
            found |= _types_within(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, str) and "datatype" in key.lower():
                spelled = _LAYER_TYPE.findall(value.lower())
                found |= {_SPELLINGS.get(name, name) for name in spelled}
            else:
                found |= _types_within(value)
    return found


def departures(requested: str, layers: set[str]) -> list[str]:
    """Say where the layers contradict the requested precision; a silent inspector contradicts nothing."""
    if not layers:
        return []
    if requested not in _ALLOWED:
        return [f"{requested} was asked for, which TensorRT does not have: {', '.join(sorted(layers))}"]
    if other := layers - _ALLOWED[requested] - {"fp32"}:
        return [f"{requested} was asked for, and layers run in {', '.join(sorted(other))}"]
    if requested not in layers:
        return [f"{requested} was asked for, and no layer runs in it: {', '.join(sorted(layers))}"]
    return []
