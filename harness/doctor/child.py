"""Questions put to a library in a process of its own.

A broken native library ends the process that imports it, or never comes back: there it is an answer in words instead.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from harness.core.interrupts import interrupts_held
from harness.core.progress import Progress

_POLL_S = 0.02
# A process that waits inside a broken driver cannot even be killed; it is left behind then.
_KILL_LIMIT_S = 5.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`facts` of a probe that came to its end; else `failure` in words. `log` is what was printed meanwhile."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    remedy: str = ""
    absent: bool = False
    log: str = ""

    @property
    def ok(self) -> bool:
        return not self.failure and not self.absent


class _Child:
    def __init__(self, question: tuple[str, ...], *, folder: str, limit_s: float) -> None:
        self._limit_s = limit_s
        # Files, not pipes: a grandchild that holds a pipe open would keep us waiting for its end.
        self._replies = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by close
        self._log = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603  # our own module, asked in our own words
            [sys.executable, "-P", "-m", "harness.doctor.probes", *question],
            stdin=subprocess.DEVNULL,
            stdout=self._replies,
            stderr=self._log,
            env=os.environ | {"TMPDIR": folder},  # So that nothing is left behind by one that is killed.
        )
        self._deadline_s = time.monotonic() + limit_s

    def answer(self) -> Answer | None:
        """Return the answer, None while there may still be one."""
        code = self._process.poll()
        if code is None and time.monotonic() < self._deadline_s:
            return None
        log = _text(self._log)
        if code is None:
            return Answer(failure=f"gave no answer within {self._limit_s:.0f} s and was ended", log=log)
        try:
            content = json.loads(_text(self._replies))
        except json.JSONDecodeError:
            return Answer(failure=_death(code, log), log=log)
        return Answer(**content, log=log)

    def close(self) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_KILL_LIMIT_S)
        self._replies.close()
        self._log.close()


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return _COLOURS.sub("", stream.read().decode(errors="replace")).strip()


def _death(code: int, log: str) -> str:
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    last = f": {log.splitlines()[-1]}" if log else ""
    return f"the process that tried it ended {how}{last}"


def answers_to(
    questions: Mapping[str, tuple[str, ...]], *, at_once: int, limit_s: float, progress: Progress
) -> dict[str, Answer]:
    """Put every question (name -> probe and its arguments) to a process of its own, `at_once` at a time."""
    waiting, running, answers = list(questions.items()), dict[str, _Child](), dict[str, Answer]()
    with (
        tempfile.TemporaryDirectory(prefix="harness-doctor-", ignore_cleanup_errors=True) as folder,
        progress.task("Examining this machine", total=len(questions)) as task,
    ):
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    name, question = waiting.pop(0)
                    with interrupts_held():  # Or a child could be started and not remembered.
                        running[name] = _Child(question, folder=folder, limit_s=limit_s)
                for name, child in list(running.items()):
                    if (answer := child.answer()) is not None:
                        answers[name] = answer
                        running.pop(name).close()
                        task.advance(note=name)
                time.sleep(_POLL_S)
        finally:
            for child in running.values():
                child.close()
    return answers
