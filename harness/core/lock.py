"""One process at a time writes a run: a lock that the kernel drops with the process that held it.

flock, and not a file whose existence is the lock: whatever ends the holder, kill -9 and a power cut included, leaves
nothing that somebody would have to judge stale. What the file says only names the holder to whom it stands in the way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.core.errors import RunError
from harness.core.files import is_temporary, writing_failed

LOCK_NAME = ".lock"
# What file systems without flock answer: some network ones, Lustre as it is mounted by default (ENOSYS).
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})
_log = logging.getLogger(__name__)
_descriptors: set[int] = set()


class _Holder(BaseModel):
    """The content of the lock file: who holds it. Emptied at the end, but a killed holder's name stays: no proof."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    process_id: int
    host: str
    command: str
    started: str


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold `folder`, made where it is missing, for this process alone; not re-entrant.

    Raises RunError that names the holder where another process has it, ArtifactError where the folder cannot be
    written. Where the file system has no locks it warns and goes on without.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise writing_failed(path, error) from error
    _close_in_forked_processes()
    _descriptors.add(descriptor)
    try:
        _take(descriptor, path)
        try:
            yield
        finally:
            # Not unlinked: one process could then lock the unlinked file, and another a new one of the same name.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def contents_without_lock(folder: Path) -> list[Path]:
    """Return what lies in a run's folder.

    A lock file alone does not make it a run, nor anything worth keeping; nor does what a process left that was killed
    while it wrote its very first file.
    """
    return sorted(path for path in folder.iterdir() if path.name != LOCK_NAME and not is_temporary(path))


def _take(descriptor: int, path: Path) -> None:
    try:
        _flock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _this_process().model_dump_json().encode() + b"\n", 0)
    except OSError as error:
        raise writing_failed(path, error) from error


def _flock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(
            f"{path.parent} is in use by {_holder_in_words(path)}.",
            hint="Wait until it ends, or stop it; then run the same command again.",
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning("%s cannot be locked (%s): let no second process write this run.", path.parent, error.strerror)


def _this_process() -> _Holder:
    return _Holder(
        process_id=os.getpid(),
        host=platform.node(),
        # A file name among the arguments need not be UTF-8, JSON must.
        command=shlex.join(sys.argv).encode(errors="backslashreplace").decode(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _holder_in_words(path: Path) -> str:
    try:
        holder = _Holder.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return "another process"  # which has taken the lock and not yet written its name
    return f"process {holder.process_id} on {holder.host} since {holder.started}, started as `{holder.command}`"


@cache
def _close_in_forked_processes() -> None:
    """Keep a forked child from holding on to a lock: a loader process may outlive its killed parent for a while."""
    os.register_at_fork(after_in_child=_close_inherited)


def _close_inherited() -> None:
    while _descriptors:
        os.close(_descriptors.pop())
