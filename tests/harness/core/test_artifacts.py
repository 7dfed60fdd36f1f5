"""An artifact is believed only where its sidecar says what it is and its bytes are those."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from harness.core.artifacts import Kind, Sidecar, read_sidecar, sidecar_path, verified_sidecar, write_artifact
from harness.core.contract import Contract, Preprocessing
from harness.core.errors import ArtifactError

_REMEDY = "Run `harness export`."
_CONTRACT = Contract(
    case="d2-resnet18-ce",
    class_names=("covid", "normal", "pneumonia"),
    label_mode="multiclass",
    preprocessing=Preprocessing(resize_px=72, crop_px=64),
    synthetic=True,
)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "fp32.onnx"
    write_artifact(
        path,
        lambda temporary: temporary.write_bytes(b"the model") and None,
        kind=Kind.ONNX_MODEL,
        parents={"checkpoint": "ab" * 32},
        packages=("numpy",),
        contract=_CONTRACT,
        details={"precision": "fp32"},
    )
    return path


def _refusal(path: Path) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        verified_sidecar(path, kind=Kind.ONNX_MODEL, remedy=_REMEDY)
    assert caught.value.hint == _REMEDY
    assert path.name in caught.value.message
    return caught.value


def test_what_was_written_about_a_file_is_read_back(artifact: Path) -> None:
    sidecar = verified_sidecar(artifact, kind=Kind.ONNX_MODEL, remedy=_REMEDY)

    assert sidecar.size_bytes == len(b"the model")
    assert sidecar.parents == {"checkpoint": "ab" * 32}
    assert sidecar.contract == _CONTRACT
    assert sidecar.details == {"precision": "fp32"}
    assert set(sidecar.versions) == {"cxr-harness", "numpy"}


def test_how_long_making_took_is_in_the_sidecar_and_not_in_the_file(tmp_path: Path) -> None:
    sidecars = [
        write_artifact(
            tmp_path / "fp32.onnx",
            lambda temporary: temporary.write_bytes(b"the model") and None,
            kind=Kind.ONNX_MODEL,
            parents={},
            details={"precision": "fp32"},
            started_s=time.perf_counter() - ago_s,
        )
        for ago_s in (0.0, 100.0)
    ]

    assert sidecars[0].sha256 == sidecars[1].sha256
    assert 0 < sidecars[0].details["build_s"] < 100 < sidecars[1].details["build_s"]
    assert sidecars[0].details["precision"] == "fp32"


def test_other_bytes_are_refused_with_both_hashes(artifact: Path) -> None:
    recorded = read_sidecar(artifact, kind=Kind.ONNX_MODEL, remedy=_REMEDY).sha256
    artifact.write_bytes(b"another model")

    assert recorded[:12] in _refusal(artifact).message


def test_a_truncated_file_is_refused(artifact: Path) -> None:
    artifact.write_bytes(b"the mod")

    assert "not the file that its sidecar describes" in _refusal(artifact).message


def test_a_missing_file_is_refused(artifact: Path) -> None:
    artifact.unlink()

    assert "does not exist" in _refusal(artifact).message


def test_a_missing_sidecar_is_refused(artifact: Path) -> None:
    sidecar_path(artifact).unlink()

    assert "no sidecar fp32.onnx.json" in _refusal(artifact).message


def test_a_file_of_another_kind_is_refused_by_both_kinds_names(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match=r"onnx model, not an? engine"):
        verified_sidecar(artifact, kind=Kind.ENGINE, remedy=_REMEDY)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"kind": "onnx model"}'],
    ids=["empty", "half", "list", "null", "no fields", "too few fields"],
)
def test_a_malformed_sidecar_is_refused(artifact: Path, text: str) -> None:
    sidecar_path(artifact).write_text(text, encoding="utf-8")

    assert "not readable" in _refusal(artifact).message


def test_a_sidecar_that_is_no_text_is_refused(artifact: Path) -> None:
    sidecar_path(artifact).write_bytes(b"\xff\xfe\x00")

    assert "not readable" in _refusal(artifact).message


@pytest.mark.parametrize("change", [{"colour": "red"}, {"kind": "poem"}, {"size_bytes": "many"}])
def test_a_sidecar_with_unknown_or_impossible_fields_is_refused(artifact: Path, change: dict[str, str]) -> None:
    beside = sidecar_path(artifact)
    beside.write_text(json.dumps(json.loads(beside.read_text(encoding="utf-8")) | change), encoding="utf-8")

    assert "not readable" in _refusal(artifact).message


def test_a_failed_write_leaves_the_old_pair_valid(artifact: Path) -> None:
    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise RuntimeError("the exporter crashed")

    with pytest.raises(RuntimeError, match="crashed"):
        write_artifact(artifact, fail, kind=Kind.ONNX_MODEL, parents={})

    assert isinstance(verified_sidecar(artifact, kind=Kind.ONNX_MODEL, remedy=_REMEDY), Sidecar)


def test_a_crash_between_the_file_and_its_sidecar_is_noticed(artifact: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.write_bytes(b"a newer model")
    newer.replace(artifact)  # what is on the disk when the process dies after the first rename

    _refusal(artifact)
