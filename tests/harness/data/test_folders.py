"""A source folder is read as it is meant, or refused: nothing is guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.cases import DATASETS
from harness.core.errors import DataError
from harness.data.folders import FoundFilms, films_in_folder

WriteFolders = Callable[..., Path]
_SPLIT = {f"{split}/{name}": 2 for split in ("train", "validation", "test") for name in ("covid", "normal")}


def _counts(found: FoundFilms) -> dict[tuple[str, str], int]:
    return dict(Counter((film.split, film.class_name) for film in found.films))


def test_class_folders_are_classes_in_the_order_of_their_names(write_folders: WriteFolders) -> None:
    found = films_in_folder(write_folders({"normal": 2, "Covid": 3, "zebra": 1}), None)

    assert found.class_names == ("covid", "normal", "zebra")
    assert not found.is_split
    assert _counts(found) == {("", "covid"): 3, ("", "normal"): 2, ("", "zebra"): 1}


@pytest.mark.parametrize(
    "spelling",
    [
        ("train", "validation", "test"),
        ("Train", "Validation", "Test"),
        ("train", "val", "test"),
        ("TRAIN", "valid", "Test"),
    ],
)
def test_split_folders_are_read_in_every_spelling(write_folders: WriteFolders, spelling: tuple[str, ...]) -> None:
    source = write_folders({f"{split}/{name}": 2 for split in spelling for name in ("covid", "normal")})

    found = films_in_folder(source, None)

    assert found.is_split
    assert _counts(found) == {
        (split, name): 2 for split in ("train", "validation", "test") for name in ("covid", "normal")
    }


def test_a_flat_test_folder_is_unlabelled(write_folders: WriteFolders) -> None:
    source = write_folders(
        {"Train/covid-19": 1, "Train/normal": 1, "Validation/covid-19": 1, "Validation/normal": 1, "Test": 3}
    )

    found = films_in_folder(source, None)

    assert _counts(found)[("test", "")] == 3
    assert found.class_names == ("covid-19", "normal")


def test_a_hidden_folder_in_a_flat_test_folder_does_not_count(write_folders: WriteFolders) -> None:
    source = write_folders({"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1, "test": 3})
    (source / "test" / ".ipynb_checkpoints").mkdir()

    assert _counts(films_in_folder(source, None))[("test", "")] == 3


@pytest.mark.parametrize("covid", ["covid", "covid-19", "COVID-19", "Covid19", "covid_19"])
def test_the_synonyms_of_dataset_2_are_its_classes(write_folders: WriteFolders, covid: str) -> None:
    found = films_in_folder(write_folders({covid: 1, "Normal": 1, "pneumonia": 1}), DATASETS[2])

    assert found.class_names == ("covid", "normal", "pneumonia")
    assert {film.class_name for film in found.films} == set(found.class_names)


def test_dataset_1_takes_both_finding_classes_as_infected(write_folders: WriteFolders) -> None:
    found = films_in_folder(write_folders({"covid-19": 2, "normal": 3, "pneumonia": 4}), DATASETS[1])

    assert found.class_names == ("infected", "normal")
    assert _counts(found) == {("", "infected"): 6, ("", "normal"): 3}


def test_dataset_1_as_it_was_published_is_read(write_folders: WriteFolders) -> None:
    source = write_folders(
        {f"{split}/{name}": 1 for split in ("train", "validation", "test") for name in ("infected", "normal")}
    )

    assert films_in_folder(source, DATASETS[1]).class_names == ("infected", "normal")


def test_hidden_files_and_folders_are_not_there_and_other_files_are_told(write_folders: WriteFolders) -> None:
    source = write_folders({"covid": 2, "normal": 2})
    film = (source / "covid" / "covid-000.png").read_bytes()
    (source / "covid" / "._covid-000.png").write_bytes(film)
    (source / "covid" / ".DS_Store").write_bytes(b"x")
    (source / ".git").mkdir()
    (source / ".git" / "x.png").write_bytes(film)
    (source / "covid" / "notes.txt").write_text("x", encoding="utf-8")
    (source / "covid" / "more").mkdir()
    (source / "loose.png").write_bytes(film)

    found = films_in_folder(source, None)

    assert len(found.films) == 4
    assert {path.name for path in found.ignored} == {"notes.txt", "more", "loose.png"}


def test_films_are_known_by_their_suffix_in_capitals_too(write_folders: WriteFolders) -> None:
    source = write_folders({"covid": 1, "normal": 1})
    for name in ("A.PNG", "b.jpg", "c.JPEG", "d.dcm", "e.gif"):
        (source / "covid" / name).write_bytes(b"x")

    assert {film.path.name for film in films_in_folder(source, None).films if film.class_name == "covid"} == {
        "covid-000.png",
        "A.PNG",
        "b.jpg",
        "c.JPEG",
    }


_BAD: dict[str, tuple[dict[str, int], int | None, str]] = {
    "no class folders": ({}, None, "has no class folders"),
    "empty class folder": ({"covid": 2, "normal": 0}, None, "No films .* in the class folder .*normal"),
    "two empty class folders": ({"a": 0, "b": 0}, None, "in the class folders .*a, .*b"),
    "only one class": ({"covid": 2}, None, "only the class covid"),
    "no validation": ({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1}, None, "no validation folder"),
    "train alone": ({"train/a": 1, "train/b": 1}, None, "no validation and no test folder"),
    "two validations": (_SPLIT | {"val/covid": 1, "val/normal": 1}, None, "two validation folders"),
    "another class in test": (_SPLIT | {"test/zebra": 1}, None, "do not have the same classes .*zebra"),
    "a class missing in validation": (
        {name: count for name, count in _SPLIT.items() if name != "validation/covid"},
        None,
        r"do not have the same classes .*validation: normal[;)]",
    ),
    "empty flat test": ({"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1, "test": 0}, None, "test is empty"),
    "flat train": ({"train": 2, "val": 2, "test": 2}, None, "train has no class folders"),
    "unknown class": ({"covid": 1, "normal": 1, "pneumonia": 1, "zebra": 1}, 2, "zebra is no class folder of dataset2"),
    "infected in dataset 2": ({"infected": 1, "normal": 1}, 2, "infected is no class folder of dataset2"),
    "class of the data set missing": ({"covid": 1, "normal": 1}, 2, "has no films of pneumonia"),
}


@pytest.mark.parametrize("what", _BAD)
def test_a_folder_that_would_have_to_be_guessed_is_refused(
    write_folders: WriteFolders, tmp_path: Path, what: str
) -> None:
    counts, dataset, words = _BAD[what]
    (tmp_path / "films").mkdir()

    with pytest.raises(DataError, match=words) as caught:
        films_in_folder(write_folders(counts), DATASETS[dataset] if dataset else None)
    assert caught.value.hint


def test_class_folders_beside_split_folders_are_not_passed_over_in_silence(write_folders: WriteFolders) -> None:
    source = write_folders(_SPLIT | {"pneumonia": 2})

    told = ""
    try:
        told = " ".join(path.as_posix() for path in films_in_folder(source, None).ignored)
    except DataError as error:
        told = error.message
    assert "pneumonia" in told


def test_a_source_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        films_in_folder(tmp_path / "nowhere", None)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="not a folder"):
        films_in_folder(tmp_path / "file", None)
