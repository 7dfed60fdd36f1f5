"""The study's data and weights from a stand-in of Google Drive: fetched once, unpacked, counted, or told in words."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdown
import pytest
from click.testing import CliRunner
from gdown.download import GoogleDriveFileToDownload

from harness.cli import cli
from harness.core.cases import CASES
from harness.core.errors import DataError
from harness.core.progress import SILENT
from harness.data.download import WEIGHTS, download
from harness.data.drive import Drive

_COUNTS = {
    1: {
        "train": {"infected": 3, "normal": 4},
        "validation": {"infected": 1, "normal": 2},
        "test": {"infected": 1, "normal": 2},
    },
    2: {
        "train": {"covid": 2, "normal": 3, "pneumonia": 2},
        "validation": {"covid": 1, "normal": 1, "pneumonia": 1},
        "test": {"": 3},
    },
}
_FILE = "1eytbwaLQBv12psV8I-aMkIli9N3bf8nO"


@pytest.fixture(autouse=True)
def small_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of few films."""
    monkeypatch.setattr("harness.data.study_counts.STUDY_COUNTS", _COUNTS)


def _names(number: int) -> list[str]:
    return [
        "/".join(part for part in (split, name, f"{index}.png") if part)
        for split, classes in _COUNTS[number].items()
        for name, count in classes.items()
        for index in range(count)
    ]


def _zipped(*names: str, inside: str = "Dataset/") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(inside + name, name)
    return stream.getvalue()


@pytest.fixture
def as_folder(fake_drive: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], None]:
    """Return a function that shares files as the folder: gdown's listing cannot be pointed at another server."""

    def share(files: dict[str, bytes]) -> None:
        fake_drive.files |= {name.replace("/", "-"): content for name, content in files.items()}

        def listed(**options: Any) -> list[GoogleDriveFileToDownload]:
            assert options["id"] == "1-FzZhQO9oHIT9SNOWYoKsuz7fe447vtR"
            return [GoogleDriveFileToDownload(name.replace("/", "-"), name, name) for name in files]

        monkeypatch.setattr(gdown, "download_folder", listed)

    return share


def test_dataset_2_is_one_archive_that_is_unpacked_and_counted(fake_drive: Any, tmp_path: Path) -> None:
    fake_drive.files[_FILE] = _zipped(*_names(2))

    result = download("dataset2", tmp_path / "out", SILENT, fake_drive.drive)

    assert result.folder == tmp_path / "out" / "Dataset"
    assert result.fetched == 1
    assert result.next_commands == (f"harness data prepare {result.folder} data/dataset2 --dataset 2",)
    assert (result.folder / "train" / "covid" / "1.png").read_text() == "train/covid/1.png"


def test_dataset_1_is_a_folder_whose_films_keep_their_places(
    fake_drive: Any, as_folder: Callable[..., None], tmp_path: Path
) -> None:
    as_folder({name: name.encode() for name in _names(1)})

    result = download("dataset1", tmp_path / "out", SILENT, fake_drive.drive)

    assert (result.folder, result.fetched) == (tmp_path / "out", 13)
    assert (result.folder / "test" / "normal" / "1.png").read_text() == "test/normal/1.png"


def test_archives_inside_the_folder_are_unpacked_too(
    fake_drive: Any, as_folder: Callable[..., None], tmp_path: Path
) -> None:
    parts = {split: [name for name in _names(1) if name.startswith(split)] for split in _COUNTS[1]}
    as_folder({f"{split}.zip": _zipped(*names, inside="") for split, names in parts.items()} | {"notes.txt": b"hello"})

    assert download("dataset1", tmp_path / "out", SILENT, fake_drive.drive).folder == tmp_path / "out"


def test_a_second_call_asks_for_nothing(fake_drive: Any, tmp_path: Path) -> None:
    fake_drive.files[_FILE] = _zipped(*_names(2))
    download("dataset2", tmp_path / "out", SILENT, fake_drive.drive)
    fake_drive.requests.clear()

    result = download("dataset2", tmp_path / "out", SILENT, fake_drive.drive)

    assert (result.fetched, fake_drive.requests) == (0, [])
    assert "nothing had to be fetched" in result.lines()[0]


@pytest.mark.parametrize("place", ["archive", "films"])
def test_what_was_placed_by_hand_needs_no_network(closed_url: str, tmp_path: Path, place: str) -> None:
    tmp_path.joinpath("out").mkdir()
    if place == "archive":
        (tmp_path / "out" / "dataset2.archive").write_bytes(_zipped(*_names(2)))
    else:
        zipfile.ZipFile(io.BytesIO(_zipped(*_names(2)))).extractall(tmp_path / "out")

    result = download("dataset2", tmp_path / "out", SILENT, Drive(base_url=closed_url, retries=0))

    assert (result.folder, result.fetched) == (tmp_path / "out" / "Dataset", 0)


def test_an_interrupted_archive_is_gone_on_with(fake_drive: Any, tmp_path: Path) -> None:
    fake_drive.files[_FILE] = _zipped(*_names(2), *(f"notes/{i}.txt" for i in range(20_000)))
    fake_drive.faults[_FILE] = "cut"
    with pytest.raises(DataError, match=r"dataset2\.archive cannot be had .* incomplete"):
        download("dataset2", tmp_path / "out", SILENT, fake_drive.drive)
    fake_drive.faults.clear()

    result = download("dataset2", tmp_path / "out", SILENT, fake_drive.drive)

    assert fake_drive.requests[-1][1] is not None, "only the rest was asked for"
    assert result.fetched == 1


def test_no_network_says_what_to_place_where(closed_url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Connection refused") as caught:
        download("dataset2", tmp_path / "out", SILENT, Drive(base_url=closed_url, retries=0))

    assert f"{closed_url}/file/d/{_FILE}/view" in caught.value.hint
    assert f"save the file as {tmp_path / 'out' / 'dataset2.archive'}" in caught.value.hint


def test_counts_that_differ_are_an_error_that_keeps_the_films(fake_drive: Any, tmp_path: Path) -> None:
    fake_drive.files[_FILE] = _zipped(*_names(2)[1:])

    with pytest.raises(DataError, match="train covid: 1 films, the study has 2"):
        download("dataset2", tmp_path / "out", SILENT, fake_drive.drive)

    assert (tmp_path / "out" / "Dataset" / "test" / "0.png").is_file()


def test_links_that_hold_each_others_sets_are_recognised(fake_drive: Any, tmp_path: Path) -> None:
    fake_drive.files[_FILE] = _zipped(*_names(1))

    with pytest.raises(DataError, match="not the study's dataset2, but has the counts of its dataset1") as caught:
        download("dataset2", tmp_path / "out", SILENT, fake_drive.drive)

    assert "does not say which of its two links is which" in caught.value.hint


def test_an_archive_that_leads_outside_is_refused(fake_drive: Any, tmp_path: Path) -> None:
    fake_drive.files[_FILE] = _zipped(*_names(2), "../../outside.png")

    with pytest.raises(DataError, match="would lie outside its folder"):
        download("dataset2", tmp_path / "out", SILENT, fake_drive.drive)

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset2.archive"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_archive_of_another_kind_is_for_a_person_to_unpack(fake_drive: Any, tmp_path: Path) -> None:
    fake_drive.files[_FILE] = b"Rar!\x1a\x07" + bytes(100)

    with pytest.raises(DataError, match="no zip or tar archive") as caught:
        download("dataset2", tmp_path / "out", SILENT, fake_drive.drive)

    assert "Unpack it by hand" in caught.value.hint


def test_the_weights_of_all_eight_cases_are_named_after_case_and_label_mode(fake_drive: Any, tmp_path: Path) -> None:
    fake_drive.files = {identifier: name.encode() for name, identifier in WEIGHTS.items()}

    result = download("weights", tmp_path, SILENT, fake_drive.drive)

    assert set(WEIGHTS) == set(CASES)
    assert len(set(WEIGHTS.values())) == 8
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{name}{'-multilabel' if name.startswith('d2') else ''}.pth": name for name in CASES
    }
    assert f"harness import d1-vgg16-fc {tmp_path / 'd1-vgg16-fc.pth'} --data data/dataset1" in result.next_commands
    assert result.next_commands[-1].endswith("--data data/dataset2 --label-mode multilabel")
    assert "multi-label" in result.notes[0]


def test_a_file_that_is_refused_does_not_keep_the_others_from_coming(fake_drive: Any, tmp_path: Path) -> None:
    fake_drive.files = dict.fromkeys(WEIGHTS.values(), b"weights")
    fake_drive.faults = {WEIGHTS["d1-vgg16-fc"]: 404, WEIGHTS["d2-vgg16-ce"]: 500}

    with pytest.raises(DataError, match="2 of 8 files cannot be had") as caught:
        download("weights", tmp_path, SILENT, fake_drive.drive)
    assert "d1-vgg16-fc.pth cannot be had" in caught.value.message
    assert "404" in caught.value.message
    assert "500" in caught.value.message
    assert len(list(tmp_path.iterdir())) == 6

    fake_drive.faults.clear()
    assert download("weights", tmp_path, SILENT, fake_drive.drive).fetched == 2


def test_without_a_network_not_every_file_is_waited_for(closed_url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 of 8 files cannot be had"):
        download("weights", tmp_path, SILENT, Drive(base_url=closed_url, retries=0))


def test_the_command_gives_its_result_to_people_and_to_machines(
    fake_drive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_drive.files[_FILE] = _zipped(*_names(2))
    monkeypatch.setattr("harness.data.download.Drive", lambda: fake_drive.drive)
    arguments = ["data", "download", "dataset2", str(tmp_path)]

    shown = CliRunner().invoke(cli, arguments)
    machine = CliRunner().invoke(cli, [*arguments, "--json"])

    assert f"{tmp_path / 'Dataset'}: dataset2, 1 files fetched." in shown.stdout
    assert f"    harness data prepare {tmp_path / 'Dataset'} data/dataset2 --dataset 2" in shown.stdout
    assert json.loads(machine.stdout)["fetched"] == 0
