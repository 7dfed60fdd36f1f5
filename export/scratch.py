"""Folders for what is written on the way to an artifact: beside it, where there is room for it if anywhere."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.core.files import is_temporary, writing_failed

_PREFIX = ".scratch-"


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Hold a folder beside the artifact `path`; raise ArtifactError where what is inside cannot write to the disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=path.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise writing_failed(path, error) from error


def source_for_quantiser(source: Path, folder: Path) -> Path:
    """Return a link to an ONNX file in a scratch folder; raise OSError where the disk has no room for two copies.

    The quantiser writes copies beside the file that it is given, and does not notice when the disk is full: what it
    reads back is then half a file.
    """
    if shutil.disk_usage(folder).free < 2 * source.stat().st_size:
        raise OSError(errno.ENOSPC, "No space left on device")
    link = folder / source.name
    link.symlink_to(source.resolve())
    return link


def move(source: Path, target: Path) -> None:
    """Give a file made in a scratch folder the name that `write_artifact` asks for."""
    shutil.move(source, target)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed export left in a run's export folder; only for the holder of the run's lock."""
    for path in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_temporary(path):
            path.unlink(missing_ok=True)
