"""Films of every mode become the 8-bit RGB image that a person would see; what cannot be read whole is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.core.errors import DataError
from harness.core.progress import SILENT
from harness.data.decoding import decoded_film, each_film, rgb_from_image

_RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _pixels(path: Path) -> np.ndarray:
    """Decode from the file and, with its hash, from memory: no mode may tell the two apart."""
    film = decoded_film(path)
    assert film.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded_film(path, _sha256(path))), np.asarray(film))
    return np.asarray(film)


def _assert_gray(pixels_hwc: np.ndarray, expected_hw: np.ndarray) -> None:
    np.testing.assert_array_equal(pixels_hwc, np.repeat(expected_hw[:, :, None], 3, axis=2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "film.png"


def test_a_16_bit_ramp_becomes_an_8_bit_ramp(path: Path) -> None:
    Image.fromarray(_RAMP.astype(np.uint16) * 257).save(path)
    with Image.open(path) as image:
        assert image.mode.startswith("I"), "the file must really be wide"

    _assert_gray(_pixels(path), _RAMP)


def test_a_dark_16_bit_film_is_not_stretched(path: Path) -> None:
    Image.fromarray(np.full((4, 4), 128, dtype=np.uint16)).save(path)
    _assert_gray(_pixels(path), np.zeros((4, 4)))

    Image.fromarray(np.full((4, 4), 129, dtype=np.uint16)).save(path)
    _assert_gray(_pixels(path), np.ones((4, 4)))


def test_32_bit_values_within_16_bits_are_scaled_and_others_refused() -> None:
    _assert_gray(np.asarray(rgb_from_image(Image.fromarray(_RAMP.astype(np.int32) * 257))), _RAMP)

    for values in (np.array([[-1, 0]], dtype=np.int32), np.array([[0, 65536]], dtype=np.int32)):
        with pytest.raises(ValueError, match="outside the 16-bit range"):
            rgb_from_image(Image.fromarray(values))
    with pytest.raises(ValueError, match="mode F"):
        rgb_from_image(Image.fromarray(np.zeros((2, 2), dtype=np.float32)))


def test_gray_becomes_three_equal_channels(path: Path) -> None:
    Image.fromarray(_RAMP).save(path)

    _assert_gray(_pixels(path), _RAMP)


def test_rgb_stays_as_it_is(path: Path) -> None:
    pixels_hwc = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels_hwc).save(path)

    np.testing.assert_array_equal(_pixels(path), pixels_hwc)


def test_transparency_is_composited_over_black(path: Path) -> None:
    pixels_hwc = np.full((1, 3, 4), 200, dtype=np.uint8)
    pixels_hwc[0, :, 3] = 0, 128, 255
    Image.fromarray(pixels_hwc).save(path)

    np.testing.assert_allclose(_pixels(path)[0, :, 0], [0, 100, 200], atol=1)


def test_gray_with_alpha_is_composited_over_black(path: Path) -> None:
    pixels_hwc = np.full((1, 3, 2), 200, dtype=np.uint8)
    pixels_hwc[0, :, 1] = 0, 128, 255
    Image.fromarray(pixels_hwc).save(path)
    with Image.open(path) as image:
        assert image.mode == "LA"

    np.testing.assert_allclose(_pixels(path)[0, :, 1], [0, 100, 200], atol=1)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])], ids=["index", "table"])
def test_a_palette_with_transparency_is_composited_over_black(path: Path, transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 200, 210, 220, 40, 50, 60])
    image.save(path, transparency=transparency)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert "transparency" in image.info

    assert _pixels(path)[0].tolist() == [[10, 20, 30], [0, 0, 0], [40, 50, 60]]


def test_a_palette_without_transparency_is_looked_up(path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 200, 210, 220])
    image.save(path)

    assert _pixels(path)[0].tolist() == [[10, 20, 30], [200, 210, 220]]


def test_a_gray_value_declared_transparent_is_black(path: Path) -> None:
    Image.fromarray(np.array([[10, 200]], dtype=np.uint8)).save(path, transparency=200)

    _assert_gray(_pixels(path), np.array([[10, 0]]))


def test_black_and_white_become_0_and_255(path: Path) -> None:
    Image.fromarray(np.array([[False, True]])).save(path)
    with Image.open(path) as image:
        assert image.mode == "1"

    _assert_gray(_pixels(path), np.array([[0, 255]]))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = tmp_path / "film.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=95)
    with Image.open(path) as image:
        assert image.mode == "CMYK"

    np.testing.assert_allclose(_pixels(path)[8, 8], [255, 0, 0], atol=6)


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
)
def test_a_film_lies_as_its_exif_orientation_says(path: Path, orientation: int, corner: tuple[int, int]) -> None:
    pixels_hw = np.zeros((4, 6), dtype=np.uint8)
    pixels_hw[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels_hw).save(path, exif=exif)

    pixels_hwc = _pixels(path)

    assert pixels_hwc.shape == ((6, 4, 3) if orientation >= 5 else (4, 6, 3))
    assert pixels_hwc[corner].tolist() == [255, 255, 255]
    assert pixels_hwc.sum() == 3 * 255


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_film_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-600])

    with pytest.raises(DataError, match=path.name) as from_file:
        decoded_film(path)
    with pytest.raises(DataError) as from_memory:
        decoded_film(path, _sha256(path))
    assert from_memory.value.message == from_file.value.message


@pytest.mark.parametrize(
    "content", [b"", b"hello, I am text\n", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "magic only"]
)
def test_what_is_no_image_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"film\.png") as caught:
        decoded_film(path)
    assert caught.value.hint
    with pytest.raises(DataError) as from_memory:
        decoded_film(path, _sha256(path))
    assert from_memory.value.message == caught.value.message


def test_a_missing_film_is_refused(path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        decoded_film(path)


def test_a_film_of_other_bytes_than_its_hash_is_refused_though_its_pixels_are_the_same(path: Path) -> None:
    Image.fromarray(_RAMP).save(path)
    recorded = _sha256(path)
    path.write_bytes(path.read_bytes() + b"x")
    decoded_film(path)

    with pytest.raises(DataError, match=r"film\.png: changed since the manifest was made") as caught:
        decoded_film(path, recorded)
    assert "harness data prepare" in caught.value.hint


def test_a_film_that_is_no_image_any_more_is_told_as_changed(path: Path) -> None:
    Image.fromarray(_RAMP).save(path)
    recorded = _sha256(path)
    path.write_bytes(b"hello, I am text\n")

    with pytest.raises(DataError, match="changed since the manifest was made"):
        decoded_film(path, recorded)


def test_a_film_that_vanished_since_it_was_hashed_is_told_as_missing(path: Path) -> None:
    with pytest.raises(DataError) as caught:
        decoded_film(path, "0" * 64)
    assert caught.value.message == f"{path}: No such file or directory"


def test_the_bytes_that_are_decoded_are_those_that_were_hashed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(_RAMP).save(path)
    recorded, content, reads = _sha256(path), path.read_bytes(), []

    def read_once(self: Path) -> bytes:
        reads.append(self)
        path.unlink()  # as if it were replaced right after
        return content

    monkeypatch.setattr(Path, "read_bytes", read_once)

    _assert_gray(np.asarray(decoded_film(path, recorded)), _RAMP)
    assert reads == [path]


def test_a_decompression_bomb_is_refused_and_a_large_film_is_not_warned_of(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(_RAMP).save(path)

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    (film,) = each_film([path], decoded_film, progress=SILENT, description="Reading")
    assert film.size == (16, 16)

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="decompression bomb"):
        decoded_film(path)


def test_results_come_in_the_order_of_the_films(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(20)]
    for index, path in enumerate(paths):
        Image.new("L", (index + 1, 2)).save(path)

    widths = each_film(paths, lambda path: decoded_film(path).width, progress=SILENT, description="Reading")

    assert widths == list(range(1, 21))


def test_all_films_that_fail_stand_in_one_error(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index:02d}.png" for index in range(30)]
    for index, path in enumerate(paths):
        if index % 6:
            path.write_bytes(b"broken")
        else:
            Image.new("L", (2, 2)).save(path)

    with pytest.raises(DataError, match="25 of 30 films cannot be used") as caught:
        each_film(paths, decoded_film, progress=SILENT, description="Reading")

    named = [path for path in paths if path.name in caught.value.message]
    assert len(named) == 20
    assert "and 5 more" in caught.value.message
    assert "00.png" not in caught.value.message


def test_an_error_that_is_not_the_films_ends_the_reading(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        each_film([tmp_path / "a.png"], fail, progress=SILENT, description="Reading")
