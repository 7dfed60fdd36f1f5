"""An evaluation set and a golden are made once, shared, and made again where what they came from has changed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.core.artifacts import Kind, sidecar_path, write_artifact
from harness.core.cases import DATASETS, case_named
from harness.core.contract import Contract, Preprocessing
from harness.core.errors import ArtifactError, DataError
from harness.core.metrics import UNLABELLED
from harness.core.models import model_from_case
from harness.core.progress import SILENT
from harness.data.decoding import decoded_film
from harness.data.evaluation_set import (
    EvaluationSet,
    ensured_evaluation_set,
    evaluation_set_folder,
    evaluation_set_from_folder,
)
from harness.data.golden import ensured_golden, read_golden
from harness.data.grouping import default_group
from harness.data.manifest import Manifest
from harness.data.prepare import PrepareRequest, prepare
from harness.data.preprocessing import images_from_pixels, pixels_from_film

_PREPROCESSING = Preprocessing(resize_px=72, crop_px=64)
_CASE = case_named("d2-resnet18-ce")
_CONTRACT = Contract(
    case=_CASE.name,
    class_names=_CASE.class_names,
    label_mode="multiclass",
    preprocessing=_PREPROCESSING,
    synthetic=False,
)


@pytest.fixture
def request_of_films(write_folders: Callable[..., Path], tmp_path: Path) -> PrepareRequest:
    """One film per class to train and to validate, and a flat test of two without labels."""
    counts = {f"{split}/{name}": 1 for split in ("train", "val") for name in ("covid-19", "normal", "pneumonia")}
    return PrepareRequest(
        source=write_folders(counts | {"test": 2}),
        out=tmp_path / "data",
        dataset=DATASETS[2],
        fractions=None,
        seed=0,
        group_of=default_group,
        placement="reference",
    )


@pytest.fixture
def manifest(request_of_films: PrepareRequest) -> Manifest:
    return prepare(request_of_films, SILENT).manifest


@pytest.fixture
def made(manifest: Manifest, tmp_path: Path) -> EvaluationSet:
    return ensured_evaluation_set(tmp_path / "sets", manifest, _PREPROCESSING, SILENT)


def test_the_pixels_are_those_of_the_preprocessing_row_by_row(made: EvaluationSet, manifest: Manifest) -> None:
    assert made.pixels_bhwc.shape == (8, 64, 64, 3)
    assert made.pixels_bhwc.dtype == np.uint8
    assert isinstance(made.pixels_bhwc, np.memmap)
    for pixels_hwc, row in zip(made.pixels_bhwc, manifest.rows, strict=True):
        expected_hwc = pixels_from_film(decoded_film(manifest.film_path(row)), _PREPROCESSING)
        np.testing.assert_array_equal(pixels_hwc, expected_hwc)


def test_the_rows_are_those_of_the_manifest_and_films_without_a_label_say_so(
    made: EvaluationSet, manifest: Manifest
) -> None:
    assert made.paths == tuple(row.path for row in manifest.rows)
    assert made.splits == tuple(row.split for row in manifest.rows)
    assert made.groups == tuple(row.group for row in manifest.rows)
    assert made.labels_b.tolist() == [0, 1, 2, 0, 1, 2, UNLABELLED, UNLABELLED]
    assert made.indices_of("validation").tolist() == [3, 4, 5]
    assert made.indices_of("test").tolist() == [6, 7]


def test_a_copy_of_the_films_shares_the_evaluation_set(
    request_of_films: PrepareRequest, made: EvaluationSet, tmp_path: Path
) -> None:
    written_ns = (made.folder / "images.npy").stat().st_mtime_ns
    copied = prepare(replace(request_of_films, out=tmp_path / "copied", placement="copy"), SILENT).manifest

    shared = ensured_evaluation_set(tmp_path / "sets", copied, _PREPROCESSING, SILENT)

    assert shared.folder == made.folder
    assert (made.folder / "images.npy").stat().st_mtime_ns == written_ns, "nothing was made again"


def test_another_preprocessing_has_an_evaluation_set_of_its_own(
    made: EvaluationSet, manifest: Manifest, tmp_path: Path
) -> None:
    other = Preprocessing(resize_px=72, crop_px=64, mean=(0.5, 0.5, 0.5))

    assert evaluation_set_folder(tmp_path / "sets", manifest.fingerprint, other) != made.folder
    assert evaluation_set_folder(tmp_path / "sets", "another fingerprint", _PREPROCESSING) != made.folder


@pytest.mark.parametrize("name", ["images.npy", "rows.csv", "images.npy.json", "rows.csv.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_evaluation_set_is_refused_by_readers_and_made_again_from_the_films(
    made: EvaluationSet, manifest: Manifest, tmp_path: Path, name: str, damage: str
) -> None:
    expected_bhwc = np.array(made.pixels_bhwc)
    path = made.folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-30])

    with pytest.raises(ArtifactError) as caught:
        evaluation_set_from_folder(made.folder)
    assert "harness export" in caught.value.hint

    again = ensured_evaluation_set(tmp_path / "sets", manifest, _PREPROCESSING, SILENT)
    np.testing.assert_array_equal(again.pixels_bhwc, expected_bhwc)
    assert again.images_sha256 == made.images_sha256


def test_rows_of_other_images_are_refused(made: EvaluationSet) -> None:
    images = np.array(made.pixels_bhwc)
    images[0] = 255 - images[0]

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.save(stream, images)

    write_artifact(made.folder / "images.npy", write, kind=Kind.EVALUATION_IMAGES, parents={})

    with pytest.raises(ArtifactError, match="belongs to other images"):
        evaluation_set_from_folder(made.folder)


def test_films_that_cannot_be_read_are_named_together_and_leave_no_evaluation_set(
    manifest: Manifest, tmp_path: Path
) -> None:
    for row in manifest.rows[:2]:
        manifest.film_path(row).write_bytes(b"broken")

    with pytest.raises(DataError, match="2 of 8 films"):
        ensured_evaluation_set(tmp_path / "sets", manifest, _PREPROCESSING, SILENT)

    assert list((tmp_path / "sets").rglob("*.npy*")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small-disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_an_error_in_words_and_not_a_killed_process(manifest: Manifest, small_disk: Path) -> None:
    with pytest.raises(ArtifactError, match="disk is full"):
        ensured_evaluation_set(small_disk, manifest, _PREPROCESSING, SILENT)

    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


def _write_checkpoint(path: Path, seed: int) -> None:
    state = model_from_case(_CASE, seed=seed).state_dict()
    write_artifact(path, lambda temporary: save_file(state, temporary), kind=Kind.CHECKPOINT, parents={})


@pytest.fixture
def golden_of(made: EvaluationSet, tmp_path: Path) -> Callable[[Contract], np.ndarray]:
    """Return a function that opens or makes the golden of the run in `tmp_path`."""
    _write_checkpoint(tmp_path / "checkpoint.safetensors", seed=0)

    def golden(contract: Contract) -> np.ndarray:
        return ensured_golden(
            tmp_path / "golden.npz",
            checkpoint=tmp_path / "checkpoint.safetensors",
            evaluation_set=made,
            contract=contract,
            progress=SILENT,
        ).logits_bc

    return golden


GoldenOf = Callable[[Contract], np.ndarray]


def test_the_golden_is_what_the_network_itself_answers(golden_of: GoldenOf, made: EvaluationSet) -> None:
    logits_bc = golden_of(_CONTRACT)

    network = model_from_case(_CASE, seed=0).eval()
    with torch.inference_mode():
        expected_bc = network(torch.from_numpy(images_from_pixels(made.pixels_bhwc, _PREPROCESSING))).numpy()
    assert logits_bc.dtype == np.float32
    np.testing.assert_allclose(logits_bc, expected_bc, rtol=1e-5, atol=1e-6)


def test_the_golden_is_made_once_and_again_for_another_checkpoint(golden_of: GoldenOf, tmp_path: Path) -> None:
    first_bc = golden_of(_CONTRACT)
    written_ns = (tmp_path / "golden.npz").stat().st_mtime_ns

    np.testing.assert_array_equal(golden_of(_CONTRACT), first_bc)
    assert (tmp_path / "golden.npz").stat().st_mtime_ns == written_ns

    _write_checkpoint(tmp_path / "checkpoint.safetensors", seed=1)
    assert not np.allclose(golden_of(_CONTRACT), first_bc)
    assert (tmp_path / "golden.npz").stat().st_mtime_ns != written_ns


def test_a_golden_is_refused_to_whoever_has_another_checkpoint_other_images_or_another_contract(
    golden_of: GoldenOf, made: EvaluationSet, tmp_path: Path
) -> None:
    golden_of(_CONTRACT)
    path = tmp_path / "golden.npz"
    checkpoint = _checkpoint_of(path)

    assert read_golden(path, checkpoint_sha256=checkpoint, evaluation_set=made, contract=_CONTRACT).logits_bc.shape == (
        8,
        3,
    )
    with pytest.raises(ArtifactError, match="another checkpoint"):
        read_golden(path, checkpoint_sha256="0" * 64, evaluation_set=made, contract=_CONTRACT)
    other = replace(made, images_sha256="0" * 64)
    with pytest.raises(ArtifactError, match="another images"):
        read_golden(path, checkpoint_sha256=checkpoint, evaluation_set=other, contract=_CONTRACT)
    contract = _CONTRACT.model_copy(update={"label_mode": "multilabel"})
    with pytest.raises(ArtifactError, match="another contract"):
        read_golden(path, checkpoint_sha256=checkpoint, evaluation_set=made, contract=contract)


def _checkpoint_of(path: Path) -> str:
    parent: str = json.loads(sidecar_path(path).read_text(encoding="utf-8"))["parents"]["checkpoint"]
    return parent


def test_a_damaged_golden_is_made_again(golden_of: GoldenOf, tmp_path: Path) -> None:
    first_bc = golden_of(_CONTRACT)
    (tmp_path / "golden.npz").write_bytes(b"no golden")

    np.testing.assert_array_equal(golden_of(_CONTRACT), first_bc)


def test_a_file_that_is_no_golden_is_refused_whatever_its_sidecar_says(
    golden_of: GoldenOf, made: EvaluationSet, tmp_path: Path
) -> None:
    golden_of(_CONTRACT)
    path = tmp_path / "golden.npz"
    parents = {"checkpoint": _checkpoint_of(path), "images": made.images_sha256}

    def write_other_arrays(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez(stream, other=np.zeros(3))

    for write in (lambda temporary: temporary.write_bytes(b"text") and None, write_other_arrays):
        write_artifact(path, write, kind=Kind.GOLDEN, parents=parents, contract=_CONTRACT)
        with pytest.raises(ArtifactError, match="not a golden"):
            read_golden(path, checkpoint_sha256=parents["checkpoint"], evaluation_set=made, contract=_CONTRACT)


def test_a_damaged_checkpoint_has_no_golden(golden_of: GoldenOf, tmp_path: Path) -> None:
    with (tmp_path / "checkpoint.safetensors").open("ab") as stream:
        stream.write(b"x")

    with pytest.raises(ArtifactError, match="checkpoint") as caught:
        golden_of(_CONTRACT)
    assert "harness train d2-resnet18-ce --force" in caught.value.hint
    assert not (tmp_path / "golden.npz").exists()
