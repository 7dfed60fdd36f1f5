"""The list of TensorRT's names agrees with the source that uses them and with both libraries."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest

from bench.backends import tensorrt_engine
from export.engine_options import HardwareCompatibility
from export.tensorrt_config import COMPATIBILITY_LEVELS
from harness.core import tensorrt_flavour
from harness.core.errors import BackendError
from harness.core.rtx_header import TARGETS
from harness.core.tensorrt_flavour import Flavour, imported_flavour
from harness.core.tensorrt_names import missing_names, names_used

_REPOSITORY = Path(__file__).resolve().parents[3]
_API_FOLDER = _REPOSITORY.parent / "shared" / "api"
_API_FILES: dict[Flavour, str] = {"tensorrt": "tensorrt-11.4.json", "rtx": "tensorrt_rtx-1.7.json"}
_FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
_PACKAGES = ("harness", "train", "export", "bench")
_MODULE_NAMES = {"trt", "tensorrt"}
_CLASS_OF_NAME = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "tensor": "ITensor",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "config": "IBuilderConfig",
    "optimisation_profile": "IOptimizationProfile",
    "timing_cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "runtime_config": "IRuntimeConfig",
}
_Pairs = set[tuple[str, str]]
_TYPES: _Pairs = {("DataType", name) for name in tensorrt_engine.NUMPY_TYPES}
# What the source takes by getattr or compares as text, with a name that it computes.
_COMPUTED: dict[Flavour, _Pairs] = {
    "tensorrt": {("HardwareCompatibilityLevel", level) for level in COMPATIBILITY_LEVELS.values()} | _TYPES,
    "rtx": {("ComputeCapability", target) for target in TARGETS} | _TYPES,
}


def _pairs_in(source: str) -> dict[Flavour, _Pairs]:
    """Return the (class or "", name) pairs of a file; a function named *_rtx or *_tensorrt uses one flavour only."""
    used: dict[Flavour, _Pairs] = {flavour: set() for flavour in _FLAVOURS}

    def note(where: tuple[Flavour, ...], owner: str, name: str) -> None:
        for flavour in where:
            used[flavour].add((owner, name))

    def visit(node: ast.AST, where: tuple[Flavour, ...]) -> None:
        if isinstance(node, ast.FunctionDef):
            where = tuple(flavour for flavour in _FLAVOURS if node.name.endswith(f"_{flavour}")) or where
        if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
            owner = ast.unparse(node.value).removeprefix("self._")
            if owner in _MODULE_NAMES:
                note(where, "", node.attr)
            elif owner in _CLASS_OF_NAME:
                note(where, _CLASS_OF_NAME[owner], node.attr)
            elif owner.partition(".")[0] in _MODULE_NAMES and "__" not in owner:
                note(where, owner.partition(".")[2], node.attr)
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Attribute) and ast.unparse(base.value) in _MODULE_NAMES:
                    for item in node.body:
                        if isinstance(item, ast.FunctionDef) and item.name != "__init__":
                            note(where, base.attr, item.name)
        for child in ast.iter_child_nodes(node):
            visit(child, where)

    visit(ast.parse(source), _FLAVOURS)
    return used


def _sources() -> dict[Path, str]:
    """Return every file that holds the library as `trt` or `tensorrt`."""
    files = (path for package in _PACKAGES for path in sorted((_REPOSITORY / package).rglob("*.py")))
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    return {path: text for path, text in texts.items() if "trt: Any" in text or "tensorrt: Any" in text}


def _pairs_of_the_source() -> dict[Flavour, _Pairs]:
    used = {flavour: set(_COMPUTED[flavour]) for flavour in _FLAVOURS}
    for text in _sources().values():
        for flavour, pairs in _pairs_in(text).items():
            used[flavour] |= pairs
    return used


def _listed(flavour: Flavour) -> _Pairs:
    return {(owner, name) for owner, names in names_used(flavour).items() for name in names}


def test_the_files_that_talk_to_tensorrt_are_found() -> None:
    names = {path.name for path in _sources()}

    assert names >= {"tensorrt_builder.py", "tensorrt_config.py", "tensorrt_log.py", "tensorrt_progress.py"}
    assert "tensorrt_engine.py" in names


@pytest.mark.parametrize("flavour", _FLAVOURS)
def test_the_list_is_exactly_what_the_source_uses(flavour: Flavour) -> None:
    used = _pairs_of_the_source()[flavour]

    assert len(used) > 70
    assert _listed(flavour) == used


@pytest.mark.parametrize("flavour", _FLAVOURS)
def test_every_name_exists_in_the_version_that_the_project_is_written_for(flavour: Flavour) -> None:
    path = _API_FOLDER / _API_FILES[flavour]
    if not path.is_file():
        pytest.skip(f"the list of the library's names is not at {path}")
    api: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))

    missing = {(owner, name) for owner, name in _listed(flavour) if name not in (api[owner] if owner else api)}
    assert missing == set()


@pytest.mark.parametrize("flavour", _FLAVOURS)
def test_every_name_exists_in_the_library_installed_here(flavour: Flavour) -> None:
    module = pytest.importorskip("tensorrt" if flavour == "tensorrt" else "tensorrt_rtx")

    assert missing_names(module, flavour) == []


def test_what_one_flavour_alone_has_is_asked_of_it_alone() -> None:
    tensorrt, rtx = _listed("tensorrt"), _listed("rtx")

    assert {("BuilderFlag", "VERSION_COMPATIBLE"), ("IBuilderConfig", "create_timing_cache")} <= tensorrt - rtx
    assert {("ComputeCapability", "SM120"), ("Runtime", "get_engine_validity")} <= rtx - tensorrt
    assert set(COMPATIBILITY_LEVELS) == set(get_args(HardwareCompatibility))


def test_the_search_finds_a_name_that_version_11_removed() -> None:
    source = "def f(trt):\n    config.set_quantization_flag(trt.BuilderFlag.FP16)\n"

    assert _pairs_in(source)["tensorrt"] == _pairs_in(source)["rtx"]
    assert _pairs_in(source)["rtx"] == {
        ("IBuilderConfig", "set_quantization_flag"),
        ("", "BuilderFlag"),
        ("BuilderFlag", "FP16"),
    }


def test_a_function_of_one_flavour_adds_names_to_that_flavour_only() -> None:
    assert _pairs_in("def configure_rtx(trt):\n    trt.Builder\n") == {"rtx": {("", "Builder")}, "tensorrt": set()}


def test_a_library_that_lacks_names_is_refused_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pytest.importorskip("tensorrt_rtx")
    names = {name: getattr(real, name) for name in dir(real) if name != "Runtime"}
    names["IBuilderConfig"] = SimpleNamespace(set_flag=None)
    newer: Any = ModuleType("newer")
    newer.__dict__.update(names | {"__version__": "2.0.0"})
    monkeypatch.setattr("importlib.import_module", lambda name: newer)

    with pytest.raises(BackendError, match=r"tensorrt_rtx 2\.0\.0 .* lacks (.*)\.") as caught:
        imported_flavour("rtx")
    assert "IBuilderConfig.get_flag" in caught.value.message
    assert "IBuilderConfig.set_flag" not in caught.value.message
    assert "Runtime.deserialize_cuda_engine" in caught.value.message
    assert tensorrt_flavour._REMEDIES["rtx"] == caught.value.hint
