"""A contract that travels inside a file is held to the file's own shapes, wherever the file lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from harness.core.contract import Contract, Preprocessing
from harness.inspection.many import inspect_files


def _findings(path: Path, model: Any, *, crop_px: int, class_names: tuple[str, ...]) -> tuple[str, ...]:
    contract = Contract(
        case="d1-resnet18-all",
        class_names=class_names,
        label_mode="multiclass",
        preprocessing=Preprocessing(resize_px=crop_px, crop_px=crop_px),
        synthetic=False,
    )
    for key, value in contract.metadata().items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    (inspection,) = inspect_files([path])
    assert inspection.summary()["contract"]["sources"] == ["file"]
    return inspection.findings


@pytest.mark.parametrize("variant", ["fp32", "uint8 nhwc"])
def test_a_file_of_the_contracts_size_and_classes_is_sound(tmp_path: Path, tiny_onnx: Any, variant: str) -> None:
    path = tmp_path / "m.onnx"

    assert _findings(path, tiny_onnx(variant), crop_px=8, class_names=("infected", "normal")) == ()


@pytest.mark.parametrize("variant", ["fp32", "uint8 nhwc"])
def test_images_of_another_size_are_a_finding(tmp_path: Path, tiny_onnx: Any, variant: str) -> None:
    (finding,) = _findings(tmp_path / "m.onnx", tiny_onnx(variant), crop_px=64, class_names=("infected", "normal"))

    assert finding.startswith("The contract crops to 64 px, the input image is ['batch', ")


def test_another_number_of_classes_is_a_finding(tmp_path: Path, tiny_onnx: Any) -> None:
    findings = _findings(tmp_path / "m.onnx", tiny_onnx(), crop_px=8, class_names=("covid", "normal", "pneumonia"))

    assert findings == ("The contract has 3 classes, the file answers with 2",)
