"""Ctrl-C inside the import of a native library is Ctrl-C, not a library that is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.mixed_int8 import Validation
from export.openvino_models import _converted
from harness.core import tensorrt_flavour
from harness.data.preprocessing import Preprocessing

# What pybind11 does with an interrupt that arrives while a module of its is initialised.
_MODULE = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt as error:
    raise ImportError("initialization failed") from error
"""


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a library in place during whose import Ctrl-C is pressed."""

    def put(name: str) -> None:
        (tmp_path / f"{name}.py").write_text(_MODULE, encoding="utf-8")
        for known in [each for each in sys.modules if each.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, known)
        # Recorded, so that the stand-in is taken out again.
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
        del sys.modules[name]
        monkeypatch.syspath_prepend(tmp_path)

    return put


def test_while_tensorrt_is_imported(interrupted: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tensorrt_flavour._MODULES, "rtx", "interrupted_tensorrt")
    interrupted("interrupted_tensorrt")
    with pytest.raises(KeyboardInterrupt):
        tensorrt_flavour.imported_flavour("rtx")


def test_while_openvino_is_imported(interrupted: Callable[[str], None], tmp_path: Path) -> None:
    interrupted("openvino")
    with pytest.raises(KeyboardInterrupt):
        _converted(tmp_path / "fp32.onnx", tmp_path, {})


def test_while_onnx_runtime_is_imported(interrupted: Callable[[str], None], tmp_path: Path) -> None:
    interrupted("onnxruntime")
    validation = Validation(
        pixels_bhwc=np.zeros((1, 4, 4, 3), dtype=np.uint8),
        golden_bc=np.zeros((1, 3), dtype=np.float32),
        preprocessing=Preprocessing(resize_px=4, crop_px=4),
        label_mode="multiclass",
    )
    with pytest.raises(KeyboardInterrupt):
        validation.agreement(tmp_path / "fp32.onnx")
