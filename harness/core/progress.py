"""How long work tells that it is alive, without knowing whether anybody is watching.

Stages accept a `Progress` and never print: the command line draws bars on a terminal and plain lines
elsewhere, and a test passes `SILENT`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work of known length."""

    def advance(self, amount: int = 1, *, note: str = "") -> None: ...


class Progress(Protocol):
    """Where tasks are announced."""

    def task(self, description: str, *, total: int | None) -> AbstractContextManager[Task]: ...

    def say(self, message: str) -> None: ...


class _SilentTask:
    def advance(self, amount: int = 1, *, note: str = "") -> None:
        pass


class _Silent:
    @contextmanager
    def task(self, description: str, *, total: int | None) -> Iterator[Task]:  # noqa: ARG002  # nobody is watching
        yield _SilentTask()

    def say(self, message: str) -> None:
        pass


SILENT: Progress = _Silent()
