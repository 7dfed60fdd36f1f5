"""The film cache is exact, shared, safe to build twice at once, and never in the way."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.core.errors import DataError
from harness.core.progress import SILENT
from harness.data import film_cache
from harness.data.decoding import decoded_film
from harness.data.film_cache import FilmCache, ensured_film_cache, shrunk_film
from harness.data.grouping import default_group
from harness.data.manifest import Manifest, manifest_from_folder
from harness.data.prepare import PrepareRequest, prepare


def _colour(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))


def _gray(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, size, dtype=np.uint8))


def _turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera lay on its side: width and height change places.
    image.save(path, exif=exif, quality=95)


@pytest.fixture
def films(tmp_path: Path) -> Manifest:
    """One film of every kind in two classes, no two of one size."""
    random = np.random.default_rng(0)
    folder = tmp_path / "films"
    for index in range(12):
        place = folder / ("covid" if index % 2 else "normal")
        place.mkdir(parents=True, exist_ok=True)
        size = (30 + index, 40 + 2 * index)
        path = place / f"patient{index}.png"
        match index % 6:
            case 0:
                _gray(random, size).save(path)
            case 1:
                _colour(random, size).save(path)
            case 2:
                _gray(random, size).convert("RGB").save(path)
            case 3:
                _colour(random, size).convert("RGBA").save(path)
            case 4:
                Image.fromarray(random.integers(0, 65536, size, dtype=np.uint16)).save(path)
            case _:
                _turned(_gray(random, size), path.with_suffix(".jpg"))
    request = PrepareRequest(
        source=folder,
        out=tmp_path / "data",
        dataset=None,
        fractions=(0.34, 0.33, 0.33),
        seed=0,
        group_of=default_group,
        placement="reference",
    )
    return prepare(request, SILENT).manifest


class _Told:
    """A progress that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    task = SILENT.task

    def say(self, message: str) -> None:
        self.said.append(message)


def _opened(parent: Path, manifest: Manifest, **options: int) -> FilmCache:
    cache = ensured_film_cache(parent, manifest, SILENT, **options)
    assert cache is not None
    return cache


def test_every_film_comes_out_with_the_very_pixels_it_is_decoded_to(films: Manifest, tmp_path: Path) -> None:
    cache = _opened(tmp_path / "cache", films)
    modes = set()
    for row in films.rows:
        cached, decoded = cache.film(row.sha256), decoded_film(films.film_path(row))
        assert cached.convert("RGB").tobytes() == decoded.tobytes(), row
        assert cached.size == decoded.size
        modes.add((row.mode, cached.mode))
    assert {("L", "L"), ("RGB", "RGB"), ("RGB", "L"), ("I;16", "L")} <= modes


def test_gray_films_take_a_third_of_the_bytes(films: Manifest, tmp_path: Path) -> None:
    cache = _opened(tmp_path / "cache", films)
    for _, height, width, channels in cache.places.values():
        assert channels in {1, 3}
        assert height
        assert width
    stored = sum(height * width * channels for _, height, width, channels in cache.places.values())
    assert cache.pixels_n.size == stored
    assert stored <= film_cache._most_bytes(films, None)


def test_a_side_shrinks_larger_films_and_leaves_the_smaller_alone(films: Manifest, tmp_path: Path) -> None:
    cache, whole = _opened(tmp_path / "cache", films, side_px=35), _opened(tmp_path / "cache", films)
    for row in films.rows:
        film, original = cache.film(row.sha256), whole.film(row.sha256)
        assert min(film.size) == min(35, *original.size)
        assert film.convert("RGB").tobytes() == shrunk_film(original.convert("RGB"), 35).tobytes()
        assert (film.size == original.size) is (min(original.size) <= 35)


def test_a_cache_is_opened_again_and_shared_by_other_splits_of_the_same_films(films: Manifest, tmp_path: Path) -> None:
    _opened(tmp_path / "cache", films)
    (path,) = (tmp_path / "cache").glob("*/films.bin")
    before = path.stat()
    other_split = replace(films, rows=tuple(replace(row, split="train") for row in reversed(films.rows)))
    _opened(tmp_path / "cache", other_split)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_films_or_another_decoding_make_another_cache(
    films: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {film_cache._cache_folder(tmp_path, films, side) for side in (None, 64, 128)}
    folders.add(film_cache._cache_folder(tmp_path, replace(films, rows=films.rows[1:]), None))
    monkeypatch.setattr(film_cache, "DECODING_VERSION", 99)
    folders.add(film_cache._cache_folder(tmp_path, films, None))
    assert len(folders) == 5


@pytest.mark.parametrize("name", ["films.bin", "films.csv", "films.bin.json"])
def test_a_damaged_cache_is_built_again(films: Manifest, tmp_path: Path, name: str) -> None:
    first = _opened(tmp_path / "cache", films)
    pixels = np.array(first.pixels_n)
    (path,) = (tmp_path / "cache").glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-5])
    assert (_opened(tmp_path / "cache", films).pixels_n == pixels).all()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes() + b"0")])
def test_films_that_vanished_or_changed_are_named_and_no_cache_remains(
    films: Manifest, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    victims = [films.film_path(row) for row in films.rows[:2]]
    for victim in victims:
        damage(victim)
    with pytest.raises(DataError) as caught:
        ensured_film_cache(tmp_path / "cache", films, SILENT)
    assert all(str(victim) in caught.value.message for victim in victims)
    assert not list((tmp_path / "cache").rglob("films.bin*"))


def test_where_the_disk_has_no_room_it_is_said_and_training_goes_on_without(
    films: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(film_cache.shutil, "disk_usage", lambda path: usage._replace(free=film_cache._RESERVE_BYTES))
    told = _Told()
    assert ensured_film_cache(tmp_path / "cache", films, told) is None
    assert "decoded anew every epoch" in told.said[0]
    assert not list((tmp_path / "cache").rglob("*"))


def test_a_disk_that_fills_up_while_it_is_built_is_no_error_either(
    films: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(film_cache, "_smallest_form", full)
    told = _Told()
    assert ensured_film_cache(tmp_path / "cache", films, told) is None
    assert "disk is full" in told.said[0]
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_two_processes_that_build_at_once_end_with_one_good_cache(films: Manifest, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from harness.core.progress import SILENT\n"
        "from harness.data.film_cache import ensured_film_cache\n"
        "from harness.data.manifest import manifest_from_folder\n"
        "cache = ensured_film_cache(Path(sys.argv[2]), manifest_from_folder(Path(sys.argv[1])), SILENT)\n"
        "print(len(cache.places), int(cache.pixels_n.astype('int64').sum()))\n"
    )
    command = [sys.executable, "-c", program, films.path.parent, tmp_path / "cache"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=120)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(said) == 1
    cache = _opened(tmp_path / "cache", manifest_from_folder(films.path.parent))
    assert said == {f"{len(cache.places)} {int(cache.pixels_n.astype('int64').sum())}\n"}
    assert not list((tmp_path / "cache").rglob("*.tmp"))
