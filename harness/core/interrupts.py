"""Ctrl-C held back while something is done that must not be torn in two.

Python raises KeyboardInterrupt between any two instructions of the main thread: also between the start of a process
and the line that remembers it, at the entry of a native library's callback, where it would be dropped, or inside the
import of one, where pybind11 makes an ImportError of it, and an absent library of the interrupt.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_to(take: Callable[[], None]) -> Iterator[None]:
    """Call `take` at each Ctrl-C inside the block instead of raising KeyboardInterrupt.

    Does nothing outside the main thread, which no signal reaches, and where somebody else handles the signal.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda _number, _frame: take())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Raise KeyboardInterrupt only after the block, where Ctrl-C was pressed inside it. For short blocks."""
    pressed: list[None] = []
    with interrupts_to(lambda: pressed.append(None)):
        yield
    if pressed:
        raise KeyboardInterrupt
