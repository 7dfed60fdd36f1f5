"""The coordinator's end of a worker: start, ask, wait no longer than a limit, and say in words how it ended."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel

from bench.messages import Failed
from harness.core.errors import BackendError
from harness.core.interrupts import interrupts_held

# Far above what any request takes here; a runtime that hangs must not take the night.
_LIMIT_S = 900.0
_CLOSING_LIMIT_S = 10.0
Reply = TypeVar("Reply", bound=BaseModel)


class WorkerProcess:
    """A running worker; its messages and everything its runtime prints go to `log`.

    `module` is what serves the requests: one that calls bench.serving.serve.
    """

    def __init__(self, log: Path, *, limit_s: float = _LIMIT_S, module: str = "bench.worker") -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_path = log
        self._limit_s = limit_s
        self._log = log.open("wb")
        self._process = subprocess.Popen(  # noqa: S603  # the module is one of ours
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._pending = b""

    def ask(self, message: BaseModel, reply: type[Reply], *, limit_s: float | None = None) -> Reply:
        """Send a request and return its reply; raise BackendError where the worker fails, dies or hangs.

        `limit_s` is this request's own, where it is known how long it should take.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(message.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error
        line = self._line(self._limit_s if limit_s is None else limit_s)
        try:
            content = json.loads(line)
            failed = Failed.model_validate(content["failed"]) if "failed" in content else None
            if failed is None:
                return reply.model_validate(content)
        except ValueError as error:  # No JSON, or other JSON: both are ValueErrors.
            self._process.kill()
            raise BackendError(
                f"The worker answered {line[:80]!r}, which is no reply, and was killed.",
                hint=f"Its log is {self._log_path}.",
            ) from error
        raise BackendError(failed.message, hint=failed.hint)

    def _line(self, limit_s: float) -> bytes:
        stream = self._process.stdout
        assert stream is not None
        deadline_s = time.monotonic() + limit_s
        while b"\n" not in self._pending:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([stream], [], [], left_s)[0]:
                self._process.kill()
                raise BackendError(
                    f"The worker gave no answer within {limit_s:.0f} s and was killed.",
                    hint=f"Its log is {self._log_path}.",
                )
            chunk = stream.read1(1 << 16)  # type: ignore[attr-defined]  # Popen's pipe is buffered
            if not chunk:
                raise self._death()
            self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return line

    def _death(self) -> BackendError:
        """Say how the process ended: by which signal, or with which last words."""
        try:
            code = self._process.wait(timeout=_CLOSING_LIMIT_S)
        except subprocess.TimeoutExpired:  # It closed its end and lives on.
            self._process.kill()
            code = self._process.wait()
        self._log.flush()
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        killed = " (perhaps for want of memory)" if code == -signal.SIGKILL else ""
        last = f": {lines[-1]}" if lines else ""
        return BackendError(f"The worker ended with {how}{killed}{last}", hint=f"Its log is {self._log_path}.")

    def finish(self) -> None:
        """End the worker; raise BackendError unless it ends well.

        For a library that may crash at the end of the process after its results were told: those are not believed.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            code = self._process.wait(timeout=_CLOSING_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            raise BackendError(
                f"The worker did not end within {_CLOSING_LIMIT_S:.0f} s and was killed.",
                hint=f"Its log is {self._log_path}.",
            ) from error
        if code != 0:
            raise self._death()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()  # Ctrl-C must not wait for a batch of VGG-16.

    def close(self) -> None:
        """End the worker; never raises, for it is called while other errors are on their way."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # It may be dead already.
                self._process.stdin.close()
        try:
            self._process.wait(timeout=_CLOSING_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()
        self.close()


def started_worker(
    stack: ExitStack, log: Path, *, module: str = "bench.worker", limit_s: float = _LIMIT_S
) -> WorkerProcess:
    """Start a worker that ends with the stack, whenever Ctrl-C is pressed."""
    with interrupts_held():  # Between the start of the process and its entry here, one would leave it behind.
        return stack.enter_context(WorkerProcess(log, module=module, limit_s=limit_s))
