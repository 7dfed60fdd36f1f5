"""An OpenVINO model is inspected with its weights: gone or changed, they are a finding of the .xml."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.artifacts import Kind, write_artifact
from harness.core.files import sha256_from_text
from harness.inspection.many import inspect_files


@pytest.fixture
def xml(tmp_path: Path) -> Path:
    """A model and its weights with sidecars, as export writes them."""
    path = tmp_path / "fp32.ir.xml"
    weights = path.with_suffix(".bin")
    write_artifact(weights, lambda out: _write(out, "weights"), kind=Kind.OPENVINO_WEIGHTS, parents={})
    write_artifact(
        path,
        lambda out: _write(out, "<?xml version='1.0'?><net/>"),
        kind=Kind.OPENVINO_MODEL,
        parents={},
        details={"weights_sha256": sha256_from_text("weights")},
    )
    return path


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def test_a_whole_model_has_no_findings_and_tells_its_weights(xml: Path) -> None:
    (inspection,) = inspect_files([xml])
    assert inspection.findings == ()
    weights = inspection.summary()["content"]["weights"]
    assert (weights["path"], weights["size_bytes"]) == ("fp32.ir.bin", 7)


def test_changed_weights_are_a_finding_of_the_model(xml: Path) -> None:
    _write(xml.with_suffix(".bin"), "wEights")
    (inspection,) = inspect_files([xml])
    assert len(inspection.findings) == 1
    assert "fp32.ir.bin does not hold the weights" in inspection.findings[0]
    assert inspection.error is not None
    assert "--openvino" in inspection.error.hint


def test_missing_weights_are_a_finding_of_the_model(xml: Path) -> None:
    xml.with_suffix(".bin").unlink()
    (inspection,) = inspect_files([xml])
    assert inspection.findings == ("The weights, fp32.ir.bin, are not beside the file",)
