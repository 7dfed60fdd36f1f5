"""What lies in a source folder: films in class folders, already split or not.

Two layouts are read. Class folders (`covid/ normal/ pneumonia/`) are split by the harness. Split folders
(`train/ validation/ test/` in any spelling and capitals, `val` too) are taken as they are; their test folder may be
flat, and its films are then unlabelled, as the study's dataset-2 was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.cases import DatasetKind
from harness.core.errors import DataError
from harness.data.decoding import IMAGE_SUFFIXES
from harness.data.splitting import SPLITS

_SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation"} | {
    "test": "test"
}
_ONE_FOLDER_PER_CLASS = "Give one folder per class, or train/, validation/ and test/ with one folder per class in each."


@dataclass(frozen=True, kw_only=True)
class FoundFilm:
    """A film and what its folders say of it; `split` is empty where the source is not split."""

    path: Path
    class_name: str
    split: str


@dataclass(frozen=True, kw_only=True)
class FoundFilms:
    """All films of a source, its classes in index order, and what was passed over."""

    films: tuple[FoundFilm, ...]
    class_names: tuple[str, ...]
    is_split: bool
    ignored: tuple[Path, ...]


def films_in_folder(source: Path, dataset: DatasetKind | None) -> FoundFilms:
    """Read a source folder; raise DataError for any layout that would have to be guessed."""
    if not source.is_dir():
        raise DataError(f"{source} is not a folder.", hint=_ONE_FOLDER_PER_CLASS)
    ignored: list[Path] = []
    split_folders = _split_folders(source)
    if split_folders:
        ignored += [path for path in _class_folders(source) if path not in split_folders.values()]
        films = _films_of_split_source(split_folders, dataset, ignored)
    else:
        films = _films_of_class_folders(source, "", dataset, ignored)
    names = dataset.class_names if dataset else tuple(sorted({film.class_name for film in films} - {""}))
    _check_names(films)
    _check_classes(films, names, source)
    return FoundFilms(films=tuple(films), class_names=names, is_split=bool(split_folders), ignored=tuple(ignored))


def _split_folders(source: Path) -> Mapping[str, Path]:
    folders: dict[str, Path] = {}
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        split = _SPLIT_NAMES.get(folder.name.lower())
        if split is None:
            continue
        if split in folders:
            raise DataError(
                f"{source} has two {split} folders: {folders[split].name} and {folder.name}.",
                hint="Remove or rename one of them.",
            )
        folders[split] = folder
    missing = [split for split in SPLITS if split not in folders]
    if folders and missing:
        raise DataError(
            f"{source} has a {next(iter(folders.values())).name} folder but no {' and no '.join(missing)} folder.",
            hint="Add the missing split, or give a folder of class folders and let the harness split it.",
        )
    return folders


def _films_of_split_source(
    folders: Mapping[str, Path], dataset: DatasetKind | None, ignored: list[Path]
) -> list[FoundFilm]:
    films: list[FoundFilm] = []
    classes: dict[str, set[str]] = {}
    for split in SPLITS:
        flat = split == "test" and not _class_folders(folders[split])
        if flat:
            found = [FoundFilm(path=path, class_name="", split=split) for path in _films_in(folders[split], ignored)]
            if not found:
                raise DataError(f"{folders[split]} is empty.", hint=_ONE_FOLDER_PER_CLASS)
        else:
            found = _films_of_class_folders(folders[split], split, dataset, ignored)
            classes[split] = {film.class_name for film in found}
        films += found
    odd = [split for split in classes if classes[split] != classes["train"]]
    if odd:
        described = "; ".join(f"{split}: {', '.join(sorted(names))}" for split, names in classes.items())
        raise DataError(
            f"The splits do not have the same classes ({described}).",
            hint="Every labelled split needs every class; a folder name may be misspelt.",
        )
    return films


def _films_of_class_folders(
    parent: Path, split: str, dataset: DatasetKind | None, ignored: list[Path]
) -> list[FoundFilm]:
    films: list[FoundFilm] = []
    folders = _class_folders(parent)
    if not folders:
        raise DataError(f"{parent} has no class folders.", hint=_ONE_FOLDER_PER_CLASS)
    ignored += [path for path in sorted(parent.iterdir()) if path.is_file() and _is_film(path)]
    empty = []
    for folder in folders:
        found = _films_in(folder, ignored)
        if not found:
            empty.append(str(folder))
            continue
        name = _class_of(folder, dataset)
        films += [FoundFilm(path=path, class_name=name, split=split) for path in found]
    if empty:
        raise DataError(
            f"No films (PNG or JPEG) in the class folder{'s' if len(empty) > 1 else ''} {', '.join(empty)}.",
            hint="Fill or remove the folder; films must lie directly in it.",
        )
    return films


def _class_folders(parent: Path) -> list[Path]:
    return [path for path in sorted(parent.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _class_of(folder: Path, dataset: DatasetKind | None) -> str:
    name = folder.name.lower()
    if dataset is None:
        return name
    if name not in dataset.synonyms:
        raise DataError(
            f"{folder} is no class folder of {dataset.name}.",
            hint=f"It knows {', '.join(sorted(dataset.synonyms))}; leave out --dataset to take folders as classes.",
        )
    return dataset.synonyms[name]


def _films_in(folder: Path, ignored: list[Path]) -> list[Path]:
    films = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and _is_film(path):
            films.append(path)
        elif not path.name.startswith("."):
            ignored.append(path)
    return films


def _is_film(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _check_names(films: list[FoundFilm]) -> None:
    """A manifest is a text file in UTF-8, so a name that is no text cannot be written into it."""
    odd = [ascii(str(film.path)) for film in films if not _is_text(str(film.path))]
    if odd:
        raise DataError(f"These file names are not UTF-8: {', '.join(odd[:20])}.", hint="Rename the files.")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_classes(films: list[FoundFilm], class_names: tuple[str, ...], source: Path) -> None:
    missing = [name for name in class_names if not any(film.class_name == name for film in films)]
    if missing:
        raise DataError(
            f"{source} has no films of {', '.join(missing)}.", hint="Every class of the data set needs films."
        )
    if len(class_names) < 2:
        raise DataError(
            f"{source} has only the class {class_names[0]}.", hint="A classifier needs two classes or more."
        )
