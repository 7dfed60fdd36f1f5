"""One way to read a film: 8-bit RGB, upright, nothing clipped and nothing hidden.

Pillow's own `convert("RGB")` turns a 16-bit ramp almost wholly white, drops transparency without compositing, and
leaves EXIF orientation to the caller; each of these has changed somebody's accuracy silently. The rules here:

* 16-bit gray is scaled linearly, 65535 -> 255, whatever range the film uses.
* Transparency is composited over black, the colour of a film's empty border.
* EXIF orientation is applied.
* Gray becomes three equal channels.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from harness.core.errors import DataError
from harness.core.machine import core_count
from harness.core.progress import Progress

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_MOST_NAMES_SHOWN = 20
# A decoded film may hold megabytes: enough to keep the cores busy, not all of them.
_FILMS_AHEAD = 32
Result = TypeVar("Result")


def decoded_film(path: Path, sha256: str | None = None) -> Image.Image:
    """Return the film as an upright 8-bit RGB image; raise DataError where it cannot be read whole.

    With `sha256` the very bytes that are decoded are compared with it: a hash taken in an earlier reading says
    nothing of a film that was replaced since. Raises DataError too where they differ.
    """
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated film must not pass for a gray one"
    source = path if sha256 is None else io.BytesIO(_bytes_of_hash(path, sha256))
    try:
        with Image.open(source) as image:
            image.load()
            return rgb_from_image(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image file", hint="Replace or remove the file.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {error}", hint="Replace or remove the file.") from error


def _bytes_of_hash(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", hint="Restore the film.") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"{path}: changed since the manifest was made",
            hint="Restore the film, or run `harness data prepare` again.",
        )
    return content


def rgb_from_image(image: Image.Image) -> Image.Image:
    """Return an 8-bit RGB image under this module's rules; raise ValueError for a mode they do not cover."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits_from_wide(image)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        upper = image.convert("RGBA")
        black = Image.new("RGBA", upper.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, upper).convert("RGB")
    return image.convert("RGB")


def _eight_bits_from_wide(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    values_hw = np.asarray(image)
    if image.mode == "F" or values_hw.min() < 0 or values_hw.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} outside the 16-bit range")
    return np.rint(values_hw.astype(np.float64) / 257.0).astype(np.uint8)


def each_film(
    paths: Iterable[Path], work: Callable[[Path], Result], *, progress: Progress, description: str
) -> list[Result]:
    """Apply `work` to every path on all cores, in order; raise one DataError that names every file that failed."""
    return list(films_in_order(paths, work, progress=progress, description=description))


def films_in_order(
    paths: Iterable[Path], work: Callable[[Path], Result], *, progress: Progress, description: str
) -> Iterator[Result]:
    """Yield `work` of every path in order, done on all cores a little ahead of the reader.

    Raises one DataError, after the last, that names every file that failed.
    """
    paths = list(paths)
    failures: list[str] = []
    waiting = iter(paths)
    pool = ThreadPoolExecutor(max_workers=core_count())
    try:
        # Around the pool, for the filters are the process's. A film of over 90 megapixels is legitimate (Pillow still
        # refuses one of twice that size), and broken EXIF tags are ignored without a line that names no file.
        with warnings.catch_warnings(), progress.task(description, total=len(paths)) as task:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            ahead = deque(pool.submit(work, path) for path in islice(waiting, _FILMS_AHEAD))
            while ahead:
                try:
                    yield ahead.popleft().result()
                except DataError as error:
                    failures.append(error.message)
                ahead.extend(pool.submit(work, path) for path in islice(waiting, 1))
                task.advance()
    finally:
        # On Ctrl-C the films not yet begun are dropped, so that the command ends at once.
        pool.shutdown(cancel_futures=True)
    if failures:
        raise unreadable_films(failures, total=len(paths))


def unreadable_films(failures: list[str], *, total: int) -> DataError:
    """Return the one error that names all films that cannot be read."""
    shown = "\n  ".join(failures[:_MOST_NAMES_SHOWN])
    more = f"\n  and {len(failures) - _MOST_NAMES_SHOWN} more" if len(failures) > _MOST_NAMES_SHOWN else ""
    return DataError(
        f"{len(failures)} of {total} films cannot be used:\n  {shown}{more}",
        hint="Replace or remove these files, then run `harness data prepare` again.",
    )
