"""What a running build tells, and how it is stopped: TensorRT's callbacks as a task, Ctrl-C as a cancelled build.

The binding prints and drops whatever is raised inside a callback, so it is kept here and raised after the build.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from harness.core.interrupts import interrupts_to
from harness.core.progress import Progress, Task


def builder_monitor(trt: Any, watch: BuildWatch) -> Any:
    # The binding decides the signatures of the callbacks, unused arguments included.
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            watch.guarded(watch.start, phase_name, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            watch.guarded(watch.finish, phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002
            return watch.guarded(watch.step, phase_name)  # None instead of True would cancel the build.

    return Monitor()


class BuildWatch:
    """What the callbacks do: the outermost phase is a task, the phases inside it are its notes.

    `stored` is what was raised meanwhile, because the binding prints and drops whatever leaves a callback.
    """

    def __init__(self, progress: Progress, tasks: ExitStack) -> None:
        self.stored: BaseException | None = None
        self._progress = progress
        self._tasks = tasks
        self._lock = threading.RLock()  # The builder may call from threads of its own.
        self._phase: str | None = None
        self._task: Task | None = None
        self._steps_left = 0

    def guarded(self, action: Callable[..., None], *arguments: Any) -> bool:
        """Run `action` and tell whether the build shall go on."""
        with self._lock:
            if self.stored is None:
                try:
                    action(*arguments)
                except BaseException as error:  # noqa: BLE001  # Raised again after the build, Ctrl-C included.
                    self.stored = error
            return self.stored is None

    def start(self, phase: str, steps: int) -> None:
        if self._task is not None:
            self._task.advance(0, note=phase)
            return
        self._phase, self._steps_left = phase, steps
        self._task = self._tasks.enter_context(self._progress.task(phase, total=steps))

    def step(self, phase: str) -> None:
        if self._task is not None and phase == self._phase:
            self._steps_left -= 1
            self._task.advance()

    def finish(self, phase: str) -> None:
        if self._task is None or phase != self._phase:
            return
        if self._steps_left > 0:  # Observed: the last step of a phase is not always announced.
            self._task.advance(self._steps_left)
        self._task = self._phase = None
        self._tasks.close()


def interrupts_kept(watch: BuildWatch) -> AbstractContextManager[None]:
    """Keep Ctrl-C for the monitor to find, instead of raising it.

    Python acts on a signal at the entry of the next callback, before any `try` in it: raised there, the
    interrupt would be dropped by the binding, and the cancelled build would look like a failed one.
    """

    def keep() -> None:
        watch.stored = KeyboardInterrupt()

    return interrupts_to(keep)
