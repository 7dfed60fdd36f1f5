"""Folds are ordinary data sets: every film tests in one of them, and nothing of an earlier preparation stays."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.artifacts import sidecar_path
from harness.core.errors import ArtifactError, DataError, UsageError
from harness.core.progress import SILENT
from harness.data import folds as folds_module
from harness.data.folds import prepare_folds
from harness.data.grouping import default_group, group_from_regex
from harness.data.manifest import MANIFEST_NAME, Manifest, check_films, fold_numbers, manifest_from_folder
from harness.data.prepare import SYNTHETIC_MARK, PrepareRequest, counts_by_split
from harness.data.splitting import SPLITS

WriteFilm = WriteFolders = Callable[..., Path]
_CLASSES = {"covid": 20, "normal": 40}


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


def _manifests(request: PrepareRequest, folds: int) -> list[Manifest]:
    return [result.manifest for result in prepare_folds(request, folds, SILENT)]


def test_five_folds_are_five_data_sets_with_the_shares_of_the_default_split(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path
) -> None:
    source = write_folders(_CLASSES)

    manifests = _manifests(request_for(source), 5)

    assert [manifest.path.parent for manifest in manifests] == [tmp_path / "out" / f"fold-{k}" for k in range(1, 6)]
    for manifest in manifests:
        assert manifest == manifest_from_folder(manifest.path.parent)
        assert manifest.root == source
        check_films(manifest)
        assert counts_by_split(manifest) == {
            "train": {"covid": 14, "normal": 28},
            "validation": {"covid": 2, "normal": 4},
            "test": {"covid": 4, "normal": 8},
        }
    assert len({manifest.fingerprint for manifest in manifests}) == 5


def test_every_film_tests_in_exactly_one_fold(write_folders: WriteFolders, request_for: RequestFor) -> None:
    manifests = _manifests(request_for(write_folders(_CLASSES)), 3)

    tested = Counter(row.path for manifest in manifests for row in manifest.rows_of("test"))

    assert tested == dict.fromkeys((row.path for row in manifests[0].rows), 1)
    assert len(tested) == 60


def test_no_patient_crosses_splits_in_any_fold_and_copies_of_a_film_are_one_patient(
    tmp_path: Path, write_film: WriteFilm, request_for: RequestFor
) -> None:
    """Thirty patients with films in both classes; p0 and p1, and p1 and p2, share a film."""
    films = tmp_path / "films"
    for patient in range(30):
        for index, (name, view) in enumerate((("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"))):
            write_film(films / name / f"p{patient}-{view}.png", seed=10 * patient + index)
    (films / "a/p1-copy.png").write_bytes((films / "a/p0-x.png").read_bytes())
    (films / "b/p2-copy.png").write_bytes((films / "b/p1-y.png").read_bytes())

    results = prepare_folds(replace(request_for(films), group_of=group_from_regex(r"(p\d+)")), 4, SILENT)

    assert {result.group_count for result in results} == {28}
    for result in results:
        rows = result.manifest.rows
        assert len({(row.group, row.split) for row in rows}) == len({row.group for row in rows}) == 28
        assert len({(row.sha256, row.split) for row in rows}) == len({row.sha256 for row in rows})
        assert {(row.class_name, row.split) for row in rows} == {(name, split) for name in "ab" for split in SPLITS}
        assert any("2 films are exact copies" in note for note in result.notes)


def test_the_same_seed_makes_the_same_folds_and_another_seed_others(
    write_folders: WriteFolders, request_for: RequestFor
) -> None:
    request = request_for(write_folders(_CLASSES))
    first = [manifest.fingerprint for manifest in _manifests(request, 3)]

    assert [manifest.fingerprint for manifest in _manifests(request, 3)] == first
    assert not set(first) & {manifest.fingerprint for manifest in _manifests(replace(request, seed=1), 3)}


def test_a_sidecar_says_which_fold_it_is_of_how_many_and_who_made_it(
    write_folders: WriteFolders, request_for: RequestFor
) -> None:
    manifests = _manifests(request_for(write_folders(_CLASSES)), 2)

    for fold, manifest in enumerate(manifests, start=1):
        sidecar = json.loads(sidecar_path(manifest.path).read_text(encoding="utf-8"))
        assert (sidecar["details"]["fold"], sidecar["details"]["folds"]) == (fold, 2)
        assert "scikit-learn" in sidecar["versions"]


def test_folds_of_phantoms_say_so(write_folders: WriteFolders, request_for: RequestFor) -> None:
    source = write_folders(_CLASSES)
    (source / SYNTHETIC_MARK).touch()

    assert all(manifest.synthetic for manifest in _manifests(request_for(source), 2))


def test_folds_of_an_earlier_preparation_are_removed_and_told_and_other_files_stay(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path
) -> None:
    request = request_for(write_folders(_CLASSES))
    _manifests(request, 4)
    note = tmp_path / "out" / "fold-4" / "note.txt"
    note.touch()

    results = prepare_folds(replace(request, seed=1), 2, SILENT)

    assert fold_numbers(tmp_path / "out") == [1, 2]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fold-1", "fold-2", "fold-4"]
    assert [path.name for path in note.parent.iterdir()] == ["note.txt"]
    assert any("removed" in told and "fold-3, fold-4" in told for told in results[0].notes)
    assert prepare_folds(request, 2, SILENT)[0].notes == ()


def test_a_preparation_that_ends_halfway_leaves_no_fold_of_the_one_before(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(write_folders(_CLASSES))
    _manifests(request, 3)
    write = folds_module.write_manifest

    def write_the_first(manifest: Manifest, *, fold: int, folds: int) -> None:
        if fold == 2:
            raise KeyboardInterrupt
        write(manifest, fold=fold, folds=folds)

    monkeypatch.setattr(folds_module, "write_manifest", write_the_first)
    with pytest.raises(KeyboardInterrupt):
        _manifests(replace(request, seed=1), 3)

    assert fold_numbers(tmp_path / "out") == [1]


def test_an_earlier_fold_that_cannot_be_removed_is_an_error_in_words(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path
) -> None:
    (tmp_path / "out" / "fold-3" / MANIFEST_NAME).mkdir(parents=True)

    with pytest.raises(ArtifactError, match="cannot be written"):
        _manifests(request_for(write_folders(_CLASSES)), 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fractions": (0.7, 0.1, 0.2)}, "--folds and --split exclude"),
        ({"placement": "copy"}, "--folds and --copy exclude"),
        ({"placement": "link"}, "--folds and --link exclude"),
    ],
)
def test_options_that_folds_exclude_are_wrong_usage(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        _manifests(replace(request_for(write_folders(_CLASSES)), **changes), 3)  # type: ignore[arg-type]
    assert caught.value.hint.startswith("Leave --")
    assert not (tmp_path / "out").exists()


def test_folds_of_a_source_that_is_split_are_wrong_usage(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path
) -> None:
    source = write_folders({f"{split}/{name}": 2 for split in SPLITS for name in ("covid", "normal")})

    with pytest.raises(UsageError, match="already split, so --folds does not apply"):
        _manifests(request_for(source), 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", [".", "folds"])
def test_folds_inside_the_source_are_wrong_usage(
    write_folders: WriteFolders, request_for: RequestFor, inside: str
) -> None:
    source = write_folders(_CLASSES)

    with pytest.raises(UsageError, match="taken for classes"):
        _manifests(replace(request_for(source), out=source / inside), 2)


def test_too_few_patients_for_the_folds_is_an_error_and_nothing_is_written(
    write_folders: WriteFolders, request_for: RequestFor, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="Too few groups for 7 folds: covid is in 6") as caught:
        _manifests(request_for(write_folders({"covid": 6, "normal": 40})), 7)
    assert "fewer --folds" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_film_in_two_classes_is_refused(write_folders: WriteFolders, request_for: RequestFor) -> None:
    source = write_folders(_CLASSES)
    (source / "normal/again.png").write_bytes((source / "covid/covid-003.png").read_bytes())

    with pytest.raises(DataError, match="1 films lie in two classes"):
        _manifests(request_for(source), 2)
