"""Folders that are either whole or absent, as harness/core/files.py has it for files.

A folder is filled in a staging folder on the same disk and renamed; where there was one before, the two change places
in one call of the kernel (renameat2, Linux), so that whoever watches the path sees the old or the new.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from harness.core.files import writing_failed

ASIDE_SUFFIX = ".old"  # Of a folder that makes place for another, where the two cannot be exchanged.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# What kernels and network file systems answer that cannot exchange, and Python that finds no such function.
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})
# Where a hard link is impossible: another disk, a file system without links, too many of them, a protected file.
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})


def write_folder_atomically(path: Path, staging: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` fill the empty folder `staging`, then put it at `path` in place of what is there.

    One writer at a time: a leftover of a killed one is deleted. Raises ArtifactError where the disk is full or
    cannot be written; `path` then holds what it held.
    """
    try:
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir(parents=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(staging)
        _sync(staging)
        if path.exists():
            _exchange(staging, path)
        else:
            staging.rename(path)
        _sync_one(path.parent)
    except OSError as error:
        raise writing_failed(path, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        remove_if_empty(staging.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where it cannot have one.

    Safe for artifacts: they are replaced by renaming, never written into, so the second name keeps what it had.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)


def _exchange(new: Path, old: Path) -> None:
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        number = errno.ENOSYS
    else:
        arguments = (_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE)
        number = ctypes.get_errno() if rename(*arguments) else 0
    if number in _NO_EXCHANGE:
        # For a moment there is none; still never half of one.
        aside = new.with_name(new.name + ASIDE_SUFFIX)
        old.rename(aside)
        try:
            new.rename(old)
        except OSError:
            aside.rename(old)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    elif number:
        raise OSError(number, os.strerror(number), str(old))


def _sync(folder: Path) -> None:
    for each, _, names in os.walk(folder):
        for name in names:
            _sync_one(Path(each, name))
        _sync_one(Path(each))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing; leave one that does, and one that is not there."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
            raise
