"""The parent's end of a build in a process of its own: start it, pass on its progress, say in words how it ended."""

from __future__ import annotations

import signal
import subprocess
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Self

from export.address_space import command_at_fixed_addresses
from export.engine_messages import REPLY, BuildRequest, BuiltPlan, Failed, Reply, Said, TaskAdvanced, TaskStarted
from export.engine_options import BatchProfile, EngineOptions
from export.tensorrt_builder import check_model_exists
from harness.core.errors import ArtifactError, ExportError, HarnessError, UsageError
from harness.core.interrupts import interrupts_held
from harness.core.progress import Progress, Task
from harness.core.tensorrt_flavour import Flavour

_ERRORS: dict[str, type[HarnessError]] = {kind.__name__: kind for kind in (ArtifactError, ExportError, UsageError)}
_LAST_LINES = 5
_CLOSING_LIMIT_S = 10.0


def plan_from_onnx(
    onnx_path: Path,
    *,
    flavour: Flavour,
    input_name: str,
    input_shape: tuple[int, int, int, int],
    profile: BatchProfile,
    options: EngineOptions,
    scratch: Path,
    artifact_path: Path,
    progress: Progress,
) -> tuple[Path, BuiltPlan]:
    """Build as `engine_from_onnx` does, in a process of its own, and return the file in `scratch` and the rest.

    Errors of a full disk speak of `artifact_path`.
    Raises what the builder raises, or ExportError where its process dies. Ctrl-C, or an exception of `progress`, kills
    the process and is raised as it is.
    """
    check_model_exists(onnx_path)
    if options.timing_cache is not None:
        options = replace(options, timing_cache=options.timing_cache.absolute())
    request = BuildRequest(
        onnx_path=onnx_path.absolute(),
        flavour=flavour,
        input_name=input_name,
        input_shape=input_shape,
        profile=profile,
        options=options,
        plan_path=scratch.absolute() / "engine.plan",
        artifact_path=artifact_path,
    )
    with ExitStack() as stack:
        with interrupts_held():  # Ctrl-C between the start of the process and its entry here would leave it behind.
            process = stack.enter_context(_BuilderProcess(scratch / "builder.log", onnx_path.name))
        process.send(request)
        return request.plan_path, _forwarded(process, progress)


def _forwarded(process: _BuilderProcess, progress: Progress) -> BuiltPlan:
    """Pass on what the builder tells until it is done; raise what it failed with."""
    with ExitStack() as tasks:
        task: Task | None = None
        while True:
            reply = process.reply()
            if isinstance(reply, BuiltPlan):
                return reply
            if isinstance(reply, Failed):
                raise _ERRORS[reply.error](reply.message, hint=reply.hint)
            if isinstance(reply, TaskStarted):
                task = tasks.enter_context(progress.task(reply.description, total=reply.total))
            elif isinstance(reply, TaskAdvanced):
                assert task is not None, "only an open task advances"
                task.advance(reply.amount, note=reply.note)
            elif isinstance(reply, Said):
                progress.say(reply.words)
            else:
                tasks.close()


class _BuilderProcess:
    """A running builder; everything that the library prints goes to `log`, which is opened anew."""

    def __init__(self, log: Path, name: str) -> None:
        self._log_path, self._name = log, name
        try:
            with log.open("wb") as stream:
                self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                    command_at_fixed_addresses("export.engine_worker"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stream,
                )
        except OSError as error:
            raise ExportError(
                f"The process that would build {name} cannot be started: {error}.",
                hint="Free memory or disk space and run the same command again; finished work is kept.",
            ) from error

    def send(self, request: BuildRequest) -> None:
        # Left open: its end is how the builder learns that nobody waits for it.
        with suppress(BrokenPipeError):  # It is dead already, and `reply` says how it died.
            _open(self._process.stdin).write(request.model_dump_json().encode() + b"\n")
            _open(self._process.stdin).flush()

    def reply(self) -> Reply:
        """Wait for the next line; raise ExportError where there is none to come."""
        line = _open(self._process.stdout).readline()
        if not line.endswith(b"\n"):
            raise self._death()
        return REPLY.validate_json(line)

    def _death(self) -> ExportError:
        """Say how the process ended: by which signal, and with which last words."""
        try:
            code = self._process.wait(timeout=_CLOSING_LIMIT_S)
        except subprocess.TimeoutExpired:  # It closed its end and lives on.
            self._process.kill()
            code = self._process.wait()
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LAST_LINES:]
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        message = f"The process that built {self._name} ended with {how}"
        hint = "Run the same command again; finished work is kept. If it ends so each time, the library is at fault."
        if code == -signal.SIGKILL:
            message += " (perhaps for want of memory)"
            hint = "Free memory and run the same command again; finished work is kept."
        return ExportError("\n  ".join([message + (":" if lines else "."), *lines]), hint=hint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the process: at once where something else than its reply ended the wait. Never raises."""
        with interrupts_held():
            if kind is not None:
                self._process.kill()
            with suppress(BrokenPipeError):
                _open(self._process.stdin).close()
            try:
                self._process.wait(timeout=_CLOSING_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            _open(self._process.stdout).close()


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "both ends are pipes"
    return stream
