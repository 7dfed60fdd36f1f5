"""What is printed survives a log file and a terminal alike."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from harness.console import print_table

_PROGRAM = """
import sys
from harness.console import console_progress, print_table
with console_progress().task("Reading films", total=2) as task:
    task.advance(note="first"); task.advance(note="[bold] [/tmp/x]")
print_table("Title", ["run", "note"], [["a", "Install '.[rtx]'"], ["b", "no file [/tmp/x]"], ["c", "y" * 150]])
"""


def test_off_a_terminal_a_table_is_plain_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title", ["run", "note"], [["a-long-name", "x"], ["b", ""]])

    assert capsys.readouterr().out.splitlines() == [
        "Title",
        "run          note",
        "-----------  ----",
        "a-long-name  x",
        "b",
    ]


def test_a_table_without_rows_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title", ["run"], [])

    assert capsys.readouterr().out.splitlines() == ["Title", "run", "---"]


def test_off_a_terminal_results_are_on_stdout_alone() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", _PROGRAM], capture_output=True, text=True, check=True)

    assert "Install '.[rtx]'" in done.stdout
    assert "Reading films" not in done.stdout


def test_on_a_terminal_square_brackets_and_long_words_in_a_cell_are_shown_as_they_are() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM],
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
        env=os.environ | {"COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:
        pass  # the terminal is gone with the process
    finally:
        os.close(ours)

    assert process.wait() == 0, shown.decode()
    assert "'.[rtx]'" in shown.decode()
    assert "[/tmp/x]" in shown.decode()
    assert shown.count(b"y") >= 150
