"""Files that are either whole or absent, and hashes that are read once.

Every artifact is written beside its final place, flushed to the disk and renamed: a crash, a full disk or Ctrl-C
leaves the previous file or none, never half of one.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import ArtifactError

_CHUNK_BYTES = 1 << 20
# A 770 MB engine is hashed once per command: what was read is remembered by what a change of the file would change.
_known_sha256: dict[Path, tuple[tuple[int, int, int, int], str]] = {}


def sha256_from_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, remembered by size, modification time and inode."""
    path = path.resolve()
    status = path.stat()
    key = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    known = _known_sha256.get(path)
    if known is not None and known[0] == key:
        return known[1]
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    _known_sha256[path] = (key, digest.hexdigest())
    return digest.hexdigest()


def sha256_from_text(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, write: Callable[[Path], None], *, durable: bool = True) -> None:
    """Let `write` fill a temporary file in the folder of `path`, then rename it into place.

    Without `durable` the file survives a killed process but perhaps not a power cut: for states that the next one
    replaces, where waiting for the disk would cost more than an epoch. Readers check the hash in either case.
    Raises ArtifactError where the disk is full or the folder cannot be written; `path` then holds what it held.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        write(temporary)
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)  # The rename itself must reach the disk, or a power cut could bring the old name back.
    except OSError as error:
        raise writing_failed(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def allocate_blocks(path: Path) -> None:
    """Give a sparse file real blocks; raise OSError where the disk has none.

    Without, a full disk would kill the process at its first write to a mapped page.
    """
    with path.open("rb+") as stream:
        os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


def is_disk_full(error: BaseException) -> bool:
    """Tell whether a failed write, however a library wrapped it, ended for want of space.

    Native writers (safetensors, protobuf) turn the error number into words, so the words are read too.
    """
    number = getattr(error, "errno", None)
    return number in {errno.ENOSPC, errno.EDQUOT} or "no space left" in str(error).lower()


def writing_failed(path: Path, error: OSError) -> ArtifactError:
    """Return the one error that tells in words why `path` was not written."""
    if is_disk_full(error):
        return ArtifactError(
            f"The disk is full: {path} was not written; what was there before is intact.",
            hint=f"Free space under {path.parent} and run the same command again; finished work is kept.",
        )
    return ArtifactError(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="Check that the folder exists, belongs to you and is not read-only.",
    )


def _remove_leftovers(path: Path) -> None:
    """Delete temporary files of this very file that a killed process left behind."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process_id = leftover.name.split(".")[-2]
        if re.fullmatch("[0-9]{1,9}", process_id) and not _is_alive(int(process_id)):
            leftover.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Tell whether a file is one that `write_atomically` has not, or will never, rename into place."""
    return re.fullmatch(r"\..+\.[0-9]{1,9}\.tmp", path.name) is not None


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    # Opened for reading only: a linked film may be read-only, and a folder always is.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
