"""From folders to a manifest: what is refused, what is placed where, and what makes two data sets the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.artifacts import sidecar_path
from harness.core.cases import DATASETS, case_named
from harness.core.errors import ArtifactError, DataError, UsageError
from harness.core.progress import SILENT
from harness.data.grouping import default_group, group_from_regex
from harness.data.manifest import Manifest, check_films, manifest_for_case, manifest_from_folder
from harness.data.prepare import SYNTHETIC_MARK, PrepareRequest, PrepareResult, counts_by_split, prepare

WriteFilm = WriteFolders = Callable[..., Path]
_CLASSES = {"covid": 10, "normal": 10, "pneumonia": 10}
_SPLIT = {f"{split}/{name}": 2 for split in ("train", "validation", "test") for name in ("covid", "normal")}


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[[Path], PrepareRequest]:
    def request(source: Path) -> PrepareRequest:
        return PrepareRequest(
            source=source,
            out=tmp_path / "out",
            dataset=None,
            fractions=None,
            seed=0,
            group_of=default_group,
            placement="reference",
        )

    return request


RequestFor = Callable[[Path], PrepareRequest]


def _prepare(request: PrepareRequest) -> PrepareResult:
    return prepare(request, SILENT)


def _contents(manifest: Manifest) -> list[tuple[str, str, bytes]]:
    return sorted((row.split, row.class_name, manifest.film_path(row).read_bytes()) for row in manifest.rows)


def test_class_folders_are_split_seven_one_two(write_folders: WriteFolders, request_for: RequestFor) -> None:
    result = _prepare(request_for(write_folders(_CLASSES)))

    assert not result.split_by_source
    assert result.group_count == 30
    assert result.notes == ()
    assert counts_by_split(result.manifest) == {
        split: dict.fromkeys(_CLASSES, count) for split, count in (("train", 7), ("validation", 1), ("test", 2))
    }


def test_the_written_manifest_is_read_back_as_it_was_made(write_folders: WriteFolders, request_for: RequestFor) -> None:
    result = _prepare(request_for(write_folders(_CLASSES)))

    again = manifest_from_folder(result.manifest.path.parent)

    assert again == result.manifest
    assert again.fingerprint == result.manifest.fingerprint
    check_films(again)
    row = again.rows[0]
    assert (row.width, row.height, row.mode) == (20, 24, "L")


def test_the_same_seed_makes_the_same_data_set_and_another_seed_another(
    write_folders: WriteFolders, request_for: RequestFor
) -> None:
    request = request_for(write_folders(_CLASSES))
    first = _prepare(request).manifest.fingerprint

    assert _prepare(request).manifest.fingerprint == first
    assert _prepare(replace(request, seed=1)).manifest.fingerprint != first


def test_a_split_source_is_taken_as_it_is(write_folders: WriteFolders, request_for: RequestFor) -> None:
    result = _prepare(request_for(write_folders(_SPLIT)))

    assert result.split_by_source
    assert all(row.path.startswith(f"{row.split}/{row.class_name}/") for row in result.manifest.rows)


def test_fractions_for_a_split_source_are_wrong_usage(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="already split"):
        _prepare(replace(request_for(write_folders(_SPLIT)), fractions=(0.7, 0.1, 0.2)))
    assert not (tmp_path / "out").exists()


def test_a_flat_test_has_rows_without_a_class(write_folders: WriteFolders, request_for: RequestFor) -> None:
    source = write_folders({"Train/covid-19": 1, "Train/normal": 1, "val/covid-19": 1, "val/normal": 1, "Test": 3})

    manifest = _prepare(request_for(source)).manifest

    assert [row.class_name for row in manifest.rows_of("test")] == ["", "", ""]
    assert counts_by_split(manifest)["test"] == {"(none)": 3}


@pytest.mark.parametrize("copy", ["test/covid/again.png", "validation/covid/again.png"])
def test_the_same_film_in_two_given_splits_is_refused(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path, copy: str
) -> None:
    source = write_folders(_SPLIT)
    (source / copy).write_bytes((source / "train/covid/train-covid-000.png").read_bytes())

    with pytest.raises(DataError, match="1 films lie in two splits") as caught:
        _prepare(request_for(source))

    assert copy in caught.value.message
    assert "train/covid/train-covid-000.png" in caught.value.message
    assert not (tmp_path / "out").exists(), "nothing is written before everything is checked"


def test_the_same_film_in_train_and_in_an_unlabelled_test_is_refused(
    write_folders: WriteFolders, request_for: RequestFor
) -> None:
    source = write_folders({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, "test": 2})
    (source / "test/again.png").write_bytes((source / "train/a/train-a-000.png").read_bytes())

    with pytest.raises(DataError, match="two splits"):
        _prepare(request_for(source))


def test_the_same_film_in_two_classes_is_refused(write_folders: WriteFolders, request_for: RequestFor) -> None:
    source = write_folders(_CLASSES)
    (source / "normal/again.png").write_bytes((source / "covid/covid-003.png").read_bytes())

    with pytest.raises(DataError, match="1 films lie in two classes") as caught:
        _prepare(request_for(source))
    assert "covid/covid-003.png = normal/again.png" in caught.value.message


def test_exact_copies_in_one_class_stay_in_one_split_and_are_told(
    write_folders: WriteFolders, request_for: RequestFor
) -> None:
    source = write_folders(_CLASSES)
    for index in range(6):
        (source / f"covid/copy-of-{index}-x.png").write_bytes((source / f"covid/covid-00{index}.png").read_bytes())

    result = _prepare(request_for(source))

    by_hash: dict[str, set[str]] = {}
    for row in result.manifest.rows:
        by_hash.setdefault(row.sha256, set()).add(row.split)
    assert all(len(splits) == 1 for splits in by_hash.values())
    assert result.group_count == 30
    assert any("6 films are exact copies" in note for note in result.notes)


def test_films_of_one_patient_stay_in_one_split(write_films_of_patients: Path, request_for: RequestFor) -> None:
    result = _prepare(replace(request_for(write_films_of_patients), group_of=group_from_regex(r"p(\d+)")))

    splits: dict[str, set[str]] = {}
    for row in result.manifest.rows:
        splits.setdefault(row.group, set()).add(row.split)
    assert result.group_count == len(splits) == 12
    assert all(len(found) == 1 for found in splits.values())
    assert {next(iter(found)) for found in splits.values()} == {"train", "validation", "test"}


@pytest.fixture
def write_films_of_patients(tmp_path: Path, write_film: WriteFilm) -> Path:
    """Twelve patients, each with two films in both classes."""
    for patient in range(12):
        for index, name in enumerate(("a/x", "a/y", "b/x", "b/y")):
            folder, view = name.split("/")
            write_film(tmp_path / "films" / folder / f"p{patient}-{view}.png", seed=10 * patient + index)
    return tmp_path / "films"


def test_patients_across_given_splits_are_told(
    write_folders: WriteFolders, write_film: WriteFilm, request_for: RequestFor
) -> None:
    source = write_folders(_SPLIT)
    write_film(source / "train/covid/00001281_000.png", seed=900)
    write_film(source / "test/covid/00001281_001.png", seed=901)

    assert any("1 groups have films in more than one split" in note for note in _prepare(request_for(source)).notes)


def test_every_film_that_cannot_be_read_stands_in_one_error(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path
) -> None:
    source = write_folders(_CLASSES)
    (source / "covid/text.png").write_text("text", encoding="utf-8")
    truncated = source / "normal/normal-004.png"
    truncated.write_bytes(truncated.read_bytes()[:200])

    with pytest.raises(DataError, match="2 of 31 films") as caught:
        _prepare(request_for(source))

    assert "text.png" in caught.value.message
    assert "normal-004.png" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_every_film_without_a_group_stands_in_one_error(write_folders: WriteFolders, request_for: RequestFor) -> None:
    with pytest.raises(DataError, match="20 of 30 films"):
        _prepare(replace(request_for(write_folders(_CLASSES)), group_of=group_from_regex(r"^(covid-\d+)")))


def test_files_that_are_no_films_are_told(write_folders: WriteFolders, request_for: RequestFor) -> None:
    source = write_folders(_CLASSES)
    (source / "covid/Thumbs.db").write_bytes(b"x")

    (note,) = _prepare(request_for(source)).notes
    assert "1 files" in note
    assert "Thumbs.db" in note


@pytest.mark.parametrize("placement", ["copy", "link"])
def test_a_placed_data_set_is_the_same_data_set_and_stands_by_itself(
    write_folders: WriteFolders, request_for: RequestFor, placement: str
) -> None:
    source = write_folders(_CLASSES)
    request = request_for(source)
    referenced = _prepare(replace(request, out=request.out.with_name("referenced"))).manifest

    placed = _prepare(replace(request, placement=placement)).manifest  # type: ignore[arg-type]

    assert placed.fingerprint == referenced.fingerprint
    assert _contents(placed) == _contents(referenced)
    assert all(row.path.startswith(f"{row.split}/{row.class_name}/") for row in placed.rows)
    inode = placed.film_path(placed.rows[0]).stat().st_ino
    assert (inode in {path.stat().st_ino for path in source.rglob("*.png")}) is (placement == "link")

    moved = request.out.with_name("moved")
    request.out.rename(moved)
    check_films(manifest_from_folder(moved))


def test_a_placed_data_set_can_be_made_again_over_itself(write_folders: WriteFolders, request_for: RequestFor) -> None:
    request = replace(request_for(write_folders(_CLASSES)), placement="copy")

    assert _prepare(request).manifest == _prepare(request).manifest


def test_linking_leaves_the_permissions_of_the_source_films_alone(
    write_folders: WriteFolders, request_for: RequestFor
) -> None:
    source = write_folders(_CLASSES)
    film = source / "covid/covid-000.png"
    film.chmod(0o400)

    _prepare(replace(request_for(source), placement="link"))

    assert film.stat().st_mode & 0o777 == 0o400


def _films_with_one_name(source: Path, write_film: WriteFilm) -> None:
    """Dataset-1 puts two folders into one class: twelve names occur in both."""
    for index in range(12):
        write_film(source / f"covid/{index:03d}.png", seed=index)
        write_film(source / f"pneumonia/{index:03d}.png", seed=100 + index)
        write_film(source / f"normal/n{index:03d}.png", seed=200 + index)


def test_films_of_one_name_and_class_are_all_placed(
    tmp_path: Path, write_film: WriteFilm, request_for: RequestFor
) -> None:
    _films_with_one_name(tmp_path / "films", write_film)
    request = replace(request_for(tmp_path / "films"), dataset=DATASETS[1], placement="copy")

    manifest = _prepare(request).manifest

    assert len({row.path for row in manifest.rows}) == len(manifest.rows) == 36
    check_films(manifest)


def test_a_copy_with_clashing_names_is_the_same_data_set_too(
    tmp_path: Path, write_film: WriteFilm, request_for: RequestFor
) -> None:
    _films_with_one_name(tmp_path / "films", write_film)
    request = replace(request_for(tmp_path / "films"), dataset=DATASETS[1])
    referenced = _prepare(replace(request, out=tmp_path / "referenced")).manifest

    copied = _prepare(replace(request, placement="copy")).manifest

    assert copied.fingerprint == referenced.fingerprint


def test_what_is_prepared_from_phantoms_says_so_and_so_does_what_is_prepared_from_that(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path
) -> None:
    source = write_folders(_CLASSES)
    assert not _prepare(request_for(source)).manifest.synthetic

    (source / SYNTHETIC_MARK).touch()
    marked = _prepare(request_for(source)).manifest
    assert marked.synthetic
    assert manifest_from_folder(marked.path.parent).synthetic


def test_a_copy_of_phantoms_cannot_lose_its_mark_by_being_prepared_again(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path
) -> None:
    source = write_folders(_CLASSES)
    (source / SYNTHETIC_MARK).touch()
    request = request_for(source)
    _prepare(replace(request, placement="copy"))

    assert _prepare(replace(request, source=request.out, out=tmp_path / "second")).manifest.synthetic


def test_a_film_name_that_is_no_text_is_refused_in_words(
    write_folders: WriteFolders, write_film: WriteFilm, request_for: RequestFor
) -> None:
    source = write_folders(_CLASSES)
    (source / "covid/covid-000.png").rename(source / "covid" / os.fsdecode(b"caf\xe9.png"))

    with pytest.raises(DataError, match="caf"):
        _prepare(request_for(source))


def test_changed_and_missing_films_are_named_together(write_folders: WriteFolders, request_for: RequestFor) -> None:
    source = write_folders(_CLASSES)
    manifest = _prepare(request_for(source)).manifest
    changed = source / "covid/covid-001.png"
    changed.write_bytes(changed.read_bytes() + b"x")
    (source / "normal/normal-002.png").unlink()

    with pytest.raises(DataError, match="2 of 30 films") as caught:
        check_films(manifest)
    assert "covid-001.png: changed since the manifest was made" in caught.value.message
    assert "normal-002.png: No such file" in caught.value.message


def test_an_edited_manifest_is_refused(write_folders: WriteFolders, request_for: RequestFor) -> None:
    path = _prepare(request_for(write_folders(_CLASSES))).manifest.path
    path.write_text(path.read_text(encoding="utf-8").replace(",test,", ",train,"), encoding="utf-8")

    with pytest.raises(ArtifactError, match="not the file that its sidecar describes"):
        manifest_from_folder(path.parent)


def test_a_manifest_of_another_version_is_refused(write_folders: WriteFolders, request_for: RequestFor) -> None:
    path = _prepare(request_for(write_folders(_CLASSES))).manifest.path
    beside = sidecar_path(path)
    beside.write_text(beside.read_text(encoding="utf-8").replace('"root"', '"home"'), encoding="utf-8")

    with pytest.raises(DataError, match="not a manifest of this version"):
        manifest_from_folder(path.parent)


def test_a_case_finds_its_data_set_in_the_folder_or_below_it(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path
) -> None:
    request = replace(request_for(write_folders(_CLASSES)), dataset=DATASETS[2], out=tmp_path / "data" / "dataset2")
    made = _prepare(request).manifest
    case = case_named("d2-vgg16-ce")

    assert manifest_for_case(tmp_path / "data", case) == made
    assert manifest_for_case(tmp_path / "data" / "dataset2", case) == made
    with pytest.raises(DataError, match="d1-vgg16-fc needs dataset-1") as caught:
        manifest_for_case(tmp_path / "data", case_named("d1-vgg16-fc"))
    assert "--dataset 1" in caught.value.hint
    with pytest.raises(DataError, match="needs the classes infected, normal"):
        manifest_for_case(tmp_path / "data" / "dataset2", case_named("d1-vgg16-fc"))
