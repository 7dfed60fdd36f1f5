"""Every name of TensorRT that this project uses, by flavour: what a library must have to be used here.

TensorRT removes names from one version to the next, and without a GPU no build would find that out. The list is held
to the source and to both libraries by tests/harness/core/test_tensorrt_names.py; a library that lacks a name of it is
refused before anything is built or loaded.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

Names = dict[str, list[str]]
_FILE = Path(__file__).with_name("tensorrt_names.json")


@cache
def names_used(flavour: Literal["tensorrt", "rtx"]) -> Names:
    """Return class -> names of its attributes; those of the module itself stand under ""."""
    content: dict[str, Names] = json.loads(_FILE.read_text(encoding="utf-8"))
    return content[flavour]


def missing_names(module: ModuleType, flavour: Literal["tensorrt", "rtx"]) -> list[str]:
    """Return what an imported library lacks of the names used here, each as Class.name."""
    missing = []
    for owner, names in names_used(flavour).items():
        holder = getattr(module, owner, None) if owner else module
        missing += [f"{owner}.{name}".lstrip(".") for name in names if not hasattr(holder, name)]
    return missing
