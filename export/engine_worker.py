"""The process that builds one engine and ends: at the same addresses each time, so that the same bytes come out.

Started through export.address_space. The request comes on stdin, progress and the reply leave on the original stdout;
whatever the library prints goes to stderr.

What TensorRT-RTX writes depends on addresses. The build therefore has a thread of its own, to which glibc gives a heap
of its own: that of the main thread has holes, whose sizes depend on environment, folder and imports.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from export.address_space import randomisation
from export.engine_messages import (
    BuildRequest,
    BuiltPlan,
    Failed,
    Reply,
    Said,
    TaskAdvanced,
    TaskEnded,
    TaskStarted,
)
from export.tensorrt_builder import engine_from_onnx
from harness.core.errors import BackendError, HarnessError
from harness.core.files import writing_failed
from harness.core.tensorrt_flavour import imported_flavour


class _Relay:
    """Progress as lines for the parent; also the task, of which the builder never has two at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def tell(self, reply: Reply) -> None:
        self._stream.write(reply.model_dump_json() + "\n")
        self._stream.flush()

    @contextmanager
    def task(self, description: str, *, total: int | None) -> Iterator[_Relay]:
        self.tell(TaskStarted(description=description, total=total))
        yield self
        self.tell(TaskEnded())

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self.tell(TaskAdvanced(amount=amount, note=note))

    def say(self, message: str) -> None:
        self.tell(Said(words=message))


def _built(request: BuildRequest, relay: _Relay) -> BuiltPlan:
    engine = engine_from_onnx(
        Path(request.onnx_path.name),  # From its own folder: the length of a path would move what comes after it.
        flavour=request.flavour,
        input_name=request.input_name,
        input_shape=request.input_shape,
        profile=request.profile,
        options=request.options,
        progress=relay,
    )
    try:
        with request.plan_path.open("wb") as stream:
            stream.write(memoryview(engine.plan))  # TensorRT's own buffer: a copy would hold 770 MB twice.
    except OSError as error:
        raise writing_failed(request.artifact_path, error) from error
    return BuiltPlan(
        version=engine.version,
        targets=engine.targets,
        tf32=engine.tf32,
        build_s=engine.build_s,
        log=engine.log,
        address_randomisation=randomisation(),
    )


def _reply_to(request: BuildRequest, relay: _Relay) -> Reply:
    """Return what was built, or the HarnessError; anything else ends the process with its traceback."""
    try:
        return _built(request, relay)
    except HarnessError as error:
        return Failed(error=type(error).__name__, message=error.message, hint=error.hint)


def _serve(request: BuildRequest, relay: _Relay) -> None:
    """Build in a thread, and end at once where the parent does, which holds the other end of stdin meanwhile."""
    read_end, write_end = os.pipe()

    def serve() -> None:
        try:
            relay.tell(_reply_to(request, relay))
        finally:
            os.close(write_end)

    thread = threading.Thread(target=serve)
    thread.start()
    # Not in a second thread, which might be given its heap before the first. The builder leaves Python's lock to us.
    ready, _, _ = select.select([sys.stdin, read_end], [], [])
    if read_end not in ready:
        os._exit(1)
    thread.join()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Where nobody started this program through another.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)
        request = BuildRequest.model_validate_json(sys.stdin.readline())
        os.chdir(request.onnx_path.parent)
        # Not first in the thread: an import that also compiles would leave other holes. What is wrong with the library
        # is said by the builder.
        with suppress(BackendError):
            imported_flavour(request.flavour)
        _serve(request, _Relay(stream))


if __name__ == "__main__":
    main()
