"""A whole export: what is redone and what is not, a full disk, a second export at once, and one that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.calibration import Calibration
from export.making import Maker
from export.many import _validation, export_many
from export.onnx_variants import OnnxVariants
from export.request import ExportOutcome, ExportRequest
from harness.core.artifacts import Kind, verified_sidecar
from harness.core.errors import ArtifactError, RunError, UsageError
from harness.core.passport import Passport
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory
from harness.core.variants import PRECISIONS, Variant, variant_from_name
from harness.data.evaluation_set import evaluation_set_folder, evaluation_set_from_folder
from harness.data.golden import read_golden
from harness.data.passports import passport_of_run

_ALL = ExportRequest(precisions=PRECISIONS, uint8_input=True, probabilities=True, calibration=Calibration(count=16))


def _export(folder: Path, request: ExportRequest) -> ExportOutcome:
    (outcome,) = export_many([RunDirectory(folder)], request, SILENT)
    return outcome


def _state(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in [*(folder / "export").iterdir(), folder / "golden.npz"]}


@pytest.fixture
def folder(every_precision: Path, tmp_path: Path) -> Path:
    """A copy of the run in every precision."""
    shutil.copytree(every_precision.parent, tmp_path / "runs")
    return tmp_path / "runs" / every_precision.name


def test_nothing_is_redone_and_another_calibration_redoes_int8_alone(folder: Path) -> None:
    before = _state(folder)
    outcome = _export(folder, _ALL)
    assert outcome.error is None
    assert {made.duration_s for made in outcome.artifacts} == {None}
    assert _state(folder) == before

    other = replace(_ALL, precisions=("fp32", "fp16", "int8-u8s8"), calibration=Calibration(count=24))
    outcome = _export(folder, other)
    assert outcome.error is None
    redone = {made.path.name for made in outcome.artifacts if made.duration_s is not None}
    assert redone == {"int8-ranges.json", "int8-u8s8.onnx", "int8-u8s8-uint8in-prob.onnx"}
    after = _state(folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == redone | {f"{name}.json" for name in redone}
    sidecar = verified_sidecar(folder / "export" / "int8-u8s8.onnx", kind=Kind.ONNX_MODEL, remedy="")
    assert sidecar.details["calibration"]["images"] == 24


def test_sidecars_tell_how_long_making_took_and_no_file_is_out_of_date_for_it(folder: Path) -> None:
    export = folder / "export"
    calibration_s = json.loads((export / "int8-ranges.json.json").read_text())["details"]["build_s"]
    for path in sorted(export.glob("*.onnx.json")):
        content = json.loads(path.read_text())
        assert content["details"]["build_s"] > 0, path
        measured = content["details"].get("calibration_s")
        assert measured == (calibration_s if path.name.startswith("int8") else None), path
    # As earlier versions wrote them, and as a slower machine would have.
    for path in (export / "fp32.onnx.json", export / "int8.onnx.json", export / "int8-ranges.json.json"):
        content = json.loads(path.read_text())
        del content["details"]["build_s"]
        path.write_text(json.dumps(content))
    path = export / "int8-u8s8.onnx.json"
    content = json.loads(path.read_text())
    content["details"] |= {"build_s": 1e6, "calibration_s": 1e6}
    path.write_text(json.dumps(content))
    before = _state(folder)
    assert {made.duration_s for made in _export(folder, _ALL).artifacts} == {None}
    assert _state(folder) == before
    # What is made of a file that does not tell does not tell either.
    for name in ("int8.onnx", "int8-uint8in-prob.onnx"):
        (export / name).unlink()
    assert _export(folder, replace(_ALL, precisions=("int8",))).error is None
    details = verified_sidecar(export / "int8-uint8in-prob.onnx", kind=Kind.ONNX_MODEL, remedy="").details
    assert details["build_s"] > 0
    assert "calibration_s" not in details


def test_every_file_and_sidecar_carries_the_passport_of_its_variant(every_precision: Path) -> None:
    import onnx

    paths = sorted((every_precision / "export").glob("*.onnx"))
    assert len(paths) == 10
    for path in paths:
        variant = variant_from_name(path.stem)
        assert variant is not None
        sidecar = verified_sidecar(path, kind=Kind.ONNX_MODEL, remedy="")
        passport = Passport.model_validate(sidecar.details["passport"])
        metadata = {each.key: each.value for each in onnx.load(path).metadata_props}
        assert metadata == passport.metadata(variant)
        assert sidecar.parents["checkpoint"] == passport.checkpoint_sha256
    assert list((every_precision / "export").glob(".*")) == []


def test_the_test_split_has_no_part_in_int8(folder: Path) -> None:
    run = RunDirectory(folder)
    record = run.read_record()
    where = evaluation_set_folder(run.evaluation_sets, record.identity.data, record.contract.preprocessing)
    evaluation_set = evaluation_set_from_folder(where)
    checkpoint = verified_sidecar(run.checkpoint, kind=Kind.CHECKPOINT, remedy="").sha256
    golden = read_golden(
        run.golden, checkpoint_sha256=checkpoint, evaluation_set=evaluation_set, contract=record.contract
    )
    spoilt_bhwc, logits_bc = evaluation_set.pixels_bhwc.copy(), golden.logits_bc.copy()
    test_rows = evaluation_set.indices_of("test")
    spoilt_bhwc[test_rows], logits_bc[test_rows] = 255 - spoilt_bhwc[test_rows], float("nan")
    expected_validation = _validation(evaluation_set, golden, record)
    spoilt, golden = replace(evaluation_set, pixels_bhwc=spoilt_bhwc), replace(golden, logits_bc=logits_bc)
    validation = _validation(spoilt, golden, record)
    np.testing.assert_array_equal(validation.pixels_bhwc, expected_validation.pixels_bhwc)
    np.testing.assert_array_equal(validation.golden_bc, expected_validation.golden_bc)
    variants = OnnxVariants(
        run=run,
        passport=passport_of_run(golden, spoilt, record.contract, checkpoint),
        evaluation_set=spoilt,
        validation=validation,
        request=_ALL,
        maker=Maker(force=False),
        progress=SILENT,
    )
    expected = (folder / "export" / "int8.onnx").read_bytes()
    (folder / "export" / "int8.onnx").unlink()
    (folder / "export" / "int8-ranges.json").unlink()
    variants.ensured(Variant(precision="int8"))
    assert (folder / "export" / "int8.onnx").read_bytes() == expected


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """The run's export folder on a disk that holds its one ONNX file of 45 MB and not another."""
    export, kept = folder / "export", folder / "kept"
    export.rename(kept)
    export.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(export)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    for name in ("fp32.onnx", "fp32.onnx.json"):
        shutil.copy2(kept / name, export / name)
    yield export
    subprocess.run(["umount", "--lazy", str(export)], check=True)


def test_a_full_disk_leaves_the_old_file_whole_and_is_told(folder: Path, small_disk: Path) -> None:
    content = (small_disk / "fp32.onnx").read_bytes()
    for request in (
        ExportRequest(force=True),
        replace(_ALL, precisions=("fp16",)),
        replace(_ALL, precisions=("int8",)),
    ):
        error = _export(folder, request).error
        assert isinstance(error, ArtifactError)
        assert "disk is full" in error.message
        assert "Free space under" in error.hint
        assert (small_disk / "fp32.onnx").read_bytes() == content
        assert list(small_disk.glob(".*")) == []
        for path in small_disk.glob("fp16*.onnx"):
            path.unlink()


def _started(folder: Path, precision: str) -> subprocess.Popen[bytes]:
    """Start an export that redoes everything, and stop it in the middle of a file."""
    command = [sys.executable, "-P", "-m", "harness.cli", "export", "--runs", str(folder.parent), "--force"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--precision", precision, "--calibration", "16"], env=environment, **quiet)
    deadline_s = time.monotonic() + 300
    # The largest thing that a killed export can leave: the quantiser's copy of the model.
    while not list((folder / "export").glob(".scratch-*/*inferred*")):
        assert process.poll() is None, "the export ended before it was seen"
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    return process


def test_a_second_export_is_told_who_is_at_it_and_a_killed_one_leaves_nothing_behind(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in (folder / "export").glob("*.onnx")}
    process = _started(folder, "int8")
    try:
        error = _export(folder, ExportRequest()).error
        assert isinstance(error, RunError)
        assert f"in use by process {process.pid} " in error.message
        assert "harness" in error.message
        assert list((folder / "export").glob(".scratch-*")), "the second one keeps its hands off the first one's files"
    finally:
        process.kill()
        process.wait()
    (folder / "export" / ".fp16.onnx.999999999.tmp").write_bytes(b"half a file")
    assert list((folder / "export").glob(".scratch-*")), "this is what a killed export leaves"
    outcome = _export(folder, replace(_ALL, precisions=("fp32", "int8")))
    assert outcome.error is None
    assert list((folder / "export").glob(".*")) == []
    assert {path.name: path.read_bytes() for path in (folder / "export").glob("*.onnx")} == before


def test_a_checkpoint_of_another_network_is_refused_in_words(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from harness.core.files import sha256_from_file

    checkpoint, sidecar = folder / "checkpoint.safetensors", folder / "checkpoint.safetensors.json"
    save_file({"weight": torch.zeros(3)}, checkpoint)
    content = json.loads(sidecar.read_text()) | {"sha256": sha256_from_file(checkpoint)}
    sidecar.write_text(json.dumps(content))
    error = _export(folder, ExportRequest()).error
    assert isinstance(error, ArtifactError)
    assert "another network than d2-resnet18-ce" in error.message


def test_what_makes_no_sense_is_refused_before_anything_is_made(folder: Path) -> None:
    from export.request import profile_from_text

    for text in ("8", "1/8", "a/b/c", "1/2/3/4", "8/1/32", "0/1/2"):
        with pytest.raises(UsageError):
            profile_from_text(text)


def test_an_engine_that_tensorrt_cannot_have_is_told_as_left_out(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra `rtx`")
    outcome = _export(folder, replace(_ALL, precisions=("int8-u8s8",), engine=True, flavour="rtx"))
    assert outcome.error is None
    left_out = [made for made in outcome.artifacts if made.left_out]
    assert [made.path.name for made in left_out] == [
        "int8-u8s8.rtx.engine",
        "int8-u8s8-uint8in-prob.rtx.engine",
    ]
    assert "--precision int8" in left_out[0].note
    assert not left_out[0].path.exists()


def test_a_request_names_each_variant_once(every_precision: Path) -> None:
    request: Any = replace(_ALL, precisions=("fp32", "fp16", "fp32"))
    names = [variant.name for variant in request.variants()]
    assert names == ["fp32", "fp32-uint8in-prob", "fp16", "fp16-uint8in-prob"]
    assert [variant.name for variant in ExportRequest().variants()] == ["fp32"]
