"""State dicts from elsewhere: read without executing them, and matched with the cases."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.core.cases import case_named
from harness.core.models import model_from_case
from harness.inspection.many import inspect_files


def test_a_state_dict_tells_its_tensors_and_the_cases_that_it_fits(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(model_from_case(case_named("d2-resnet18-ce"), seed=0).state_dict(), path)

    (inspection,) = inspect_files([path])
    summary = inspection.summary()

    assert inspection.findings == ()
    assert summary["file"]["kind"] == "state dict"
    assert summary["content"]["parameters"] == 11_178_051
    assert summary["content"]["types"] == {"float32": 102, "int64": 20}
    assert summary["content"]["fits"] == "This file fits d2-resnet18-ce and d2-resnet18-focal."


class _Command:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "fp32.onnx"])
def test_a_file_that_would_run_code_is_refused_under_any_name_and_runs_none(
    tmp_path: Path, zipped: bool, name: str
) -> None:
    path, trace = tmp_path / name, tmp_path / "was-run"
    torch.save({"w": _Command(f"touch {trace}")}, path, _use_new_zipfile_serialization=zipped)

    (inspection,) = inspect_files([path])

    assert any("would run code" in finding for finding in inspection.findings)
    assert inspection.error is not None
    assert "Weights alone need no code" in inspection.error.hint
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half an archive"], ids=["empty", "text", "zip"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.npz", "w.onnx"])
def test_unreadable_bytes_are_a_finding_under_every_name(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    (inspection,) = inspect_files([path])

    assert len(inspection.findings) == 1
    assert inspection.error is not None
    assert inspection.error.hint
