"""How a case finds its folds, and what it is told where they are not there, or not all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.artifacts import sidecar_path
from harness.core.cases import DATASETS, case_named
from harness.core.errors import ArtifactError, DataError
from harness.core.progress import SILENT
from harness.data.folds import prepare_folds
from harness.data.grouping import default_group
from harness.data.manifest import MANIFEST_NAME, fold_folder, folds_in, manifest_for_case
from harness.data.prepare import PrepareRequest, prepare

_CASE = case_named("d2-resnet18-ce")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def request_for_dataset2(data: Path, write_folders: Callable[..., Path]) -> PrepareRequest:
    return PrepareRequest(
        source=write_folders({"covid": 18, "normal": 18, "pneumonia": 18}),
        out=data / "dataset2",
        dataset=DATASETS[2],
        fractions=None,
        seed=0,
        group_of=default_group,
        placement="reference",
    )


@pytest.fixture
def three_folds(request_for_dataset2: PrepareRequest) -> Path:
    prepare_folds(request_for_dataset2, 3, SILENT)
    return request_for_dataset2.out


@pytest.mark.parametrize("inside", ["", "dataset2"], ids=["folder of both", "data set"])
def test_a_case_finds_its_folds_in_the_folder_or_below_it(data: Path, three_folds: Path, inside: str) -> None:
    assert folds_in(data / inside, _CASE) == [1, 2, 3]
    for fold in (1, 2, 3):
        assert fold_folder(data / inside, _CASE, fold) == three_folds / f"fold-{fold}"


def test_a_fold_is_the_data_set_of_its_case_and_of_no_other(three_folds: Path) -> None:
    folder = fold_folder(three_folds, _CASE, 2)

    manifest = manifest_for_case(folder, _CASE)

    assert manifest.path == folder / MANIFEST_NAME
    assert manifest.class_names == _CASE.class_names
    with pytest.raises(DataError, match="needs the classes infected, normal"):
        manifest_for_case(folder, case_named("d1-resnet18-fc"))


def test_a_fold_that_is_not_there_is_an_error_that_names_those_that_are(data: Path, three_folds: Path) -> None:
    with pytest.raises(DataError, match="needs fold 4 of dataset-2, and there is no") as caught:
        fold_folder(data, _CASE, 4)

    assert str(three_folds / "fold-4" / MANIFEST_NAME) in caught.value.message
    assert "The folds there are 1, 2, 3." in caught.value.hint
    assert f"harness data prepare SOURCE {three_folds} --dataset 2 --folds K" in caught.value.hint


@pytest.mark.parametrize("prepared", [False, True], ids=["nothing", "a data set without folds"])
def test_where_there_are_no_folds_the_hint_is_the_command_that_makes_them(
    data: Path, request_for_dataset2: PrepareRequest, prepared: bool
) -> None:
    if prepared:
        prepare(request_for_dataset2, SILENT)
    folder = data / "dataset2"

    for given in (data, folder) if prepared else (data,):
        assert folds_in(given, _CASE) == []
        with pytest.raises(DataError, match=f"there is no {folder / 'fold-1' / MANIFEST_NAME}") as caught:
            fold_folder(given, _CASE, 1)
        assert caught.value.hint == (
            f"There are no folds yet. `harness data prepare SOURCE {folder} --dataset 2 --folds K` makes them."
        )


def test_folds_of_one_data_set_are_none_of_the_other(data: Path, three_folds: Path) -> None:
    assert folds_in(data, case_named("d1-vgg16-fc")) == []


@pytest.mark.parametrize(
    ("missing", "left"), [([1], "2, 3"), ([2], "1, 3"), ([3], "1, 2"), ([1, 2], "3")], ids=lambda value: str(value)
)
def test_folds_of_which_some_are_missing_are_refused_as_a_whole(
    data: Path, three_folds: Path, missing: list[int], left: str
) -> None:
    for fold in missing:
        shutil.rmtree(three_folds / f"fold-{fold}")

    with pytest.raises(DataError, match=f"holds the folds {left}, and was prepared as 3") as caught:
        folds_in(data, _CASE)
    assert "--folds 3" in caught.value.hint
    for fold in {1, 2, 3} - set(missing):
        fold_folder(data, _CASE, fold)


def test_a_fold_too_many_is_refused_too(data: Path, three_folds: Path) -> None:
    shutil.copytree(three_folds / "fold-1", three_folds / "fold-4")

    with pytest.raises(DataError, match="holds the folds 1, 2, 3, 4, and was prepared as 3"):
        folds_in(data, _CASE)


def test_a_fold_without_a_sidecar_is_refused(data: Path, three_folds: Path) -> None:
    sidecar_path(three_folds / "fold-1" / MANIFEST_NAME).unlink()

    with pytest.raises(ArtifactError, match="no sidecar"):
        folds_in(data, _CASE)


def test_folds_that_somebody_split_by_hand_are_taken_as_they_are(
    data: Path, request_for_dataset2: PrepareRequest
) -> None:
    prepare(request_for_dataset2, SILENT)
    made = data / "dataset2"
    for name in ("fold-2", "fold-10", "fold-x", "fold-0", "fold-03"):
        (made / name).mkdir()
        for path in (made / MANIFEST_NAME, sidecar_path(made / MANIFEST_NAME)):
            shutil.copy(path, made / name)

    assert folds_in(data, _CASE) == [2, 10]


def test_a_data_set_that_is_prepared_as_folds_is_not_one_and_says_how_to_choose(data: Path, three_folds: Path) -> None:
    for folder in (data, three_folds):
        with pytest.raises(DataError, match="is prepared as 3 folds") as caught:
            manifest_for_case(folder, _CASE)
        assert str(three_folds / "fold-1") in caught.value.hint


def test_a_data_set_with_folds_beside_it_is_still_itself(data: Path, request_for_dataset2: PrepareRequest) -> None:
    made = prepare(request_for_dataset2, SILENT).manifest
    prepare_folds(request_for_dataset2, 2, SILENT)

    assert manifest_for_case(data, _CASE) == made
    assert folds_in(data, _CASE) == [1, 2]
