"""Ctrl-C while something must not be torn in two."""

from __future__ import annotations

import signal
import threading

import pytest

from harness.core.interrupts import interrupts_held, interrupts_to


def _press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_held_interrupt_is_raised_after_the_block_and_never_inside_it() -> None:
    done = []

    def block() -> None:
        with interrupts_held():
            _press()
            done.append("rest of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_of_the_block_passes_and_the_handler_is_put_back() -> None:
    with pytest.raises(ZeroDivisionError), interrupts_held():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_every_press_is_taken() -> None:
    taken = []
    with interrupts_to(lambda: taken.append(1)):
        _press()
        _press()
    assert taken == [1, 1]


def test_the_handler_of_somebody_else_stays() -> None:
    theirs = []
    before = signal.signal(signal.SIGINT, lambda _number, _frame: theirs.append(1))
    try:
        with interrupts_held():
            _press()
    finally:
        signal.signal(signal.SIGINT, before)
    assert theirs == [1]


def test_another_thread_than_the_main_one_changes_nothing() -> None:
    ran = []

    def work() -> None:
        with interrupts_held():
            ran.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran == [signal.default_int_handler]
