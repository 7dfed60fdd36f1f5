"""What the tests of harness/ share: tiny films written as real files, and folders of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteFilm = Callable[..., Path]
WriteFolders = Callable[..., Path]


@pytest.fixture
def write_film() -> WriteFilm:
    """Return a function that writes a gray film of random pixels; another seed gives other bytes."""

    def write(path: Path, *, seed: int, size: tuple[int, int] = (20, 24)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels_hw = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0]), dtype=np.uint8)
        Image.fromarray(pixels_hw).save(path)
        return path

    return write


@pytest.fixture
def write_folders(tmp_path: Path, write_film: WriteFilm) -> WriteFolders:
    """Return a function that fills `tmp_path/NAME` with FOLDER -> number of films, no two of them alike."""

    def write(counts: Mapping[str, int], *, name: str = "films") -> Path:
        seed = 0
        for folder, count in counts.items():
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                write_film(tmp_path / name / folder / f"{folder.replace('/', '-')}-{index:03d}.png", seed=seed)
                seed += 1
        return tmp_path / name

    return write
