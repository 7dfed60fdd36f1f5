"""Two processes never write one run; whoever comes second learns who is first, and a killed holder holds nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.core.errors import ArtifactError, RunError
from harness.core.lock import LOCK_NAME, contents_without_lock, run_lock

_HOLDER = """
import sys
from pathlib import Path
from harness.core.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
_HOLDER_WITH_LOADER = """
import multiprocessing, sys, time
from pathlib import Path
from harness.core.lock import run_lock
with run_lock(Path(sys.argv[1])):
    loader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    loader.start()
    print(loader.pid, flush=True)
    sys.stdin.readline()
"""
_RACER = """
import sys
from pathlib import Path
from harness.core.errors import RunError
from harness.core.lock import run_lock
sys.stdin.readline()
try:
    with run_lock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.readline()
except RunError as error:
    print("refused", flush=True)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "d2-resnet18-ce"


@pytest.fixture
def start(run_folder: Path) -> Iterator[Start]:
    """Return a function that starts a program on the run's folder; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start_program(program: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-c", program, str(run_folder), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start_program
    for process in started:
        process.kill()
        process.communicate()


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _assert_free(folder: Path) -> None:
    with run_lock(folder):
        pass


@pytest.fixture
def mounted_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one page, on which a test may do what it likes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_second_process_is_told_who_holds_the_run_since_when_and_started_how(run_folder: Path, start: Start) -> None:
    holder = start(_HOLDER, "--data", "my films")
    assert _said(holder) == "held"
    written = (run_folder / LOCK_NAME).read_text(encoding="utf-8")

    for _ in range(2):  # Being refused must not damage what the next one is told.
        with pytest.raises(RunError) as caught, run_lock(run_folder):
            pass

        started = json.loads(written)["started"]
        assert caught.value.message == (
            f"{run_folder} is in use by process {holder.pid} on {platform.node()} since {started}, "
            f"started as `-c {run_folder} --data 'my films'`."
        )
        assert "run the same command again" in caught.value.hint
    assert (run_folder / LOCK_NAME).read_text(encoding="utf-8") == written


def test_a_holder_that_ends_leaves_the_run_free(run_folder: Path, start: Start) -> None:
    holder = start(_HOLDER)
    assert _said(holder) == "held"
    _tell(holder)
    assert holder.wait(timeout=60) == 0

    _assert_free(run_folder)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
def test_a_holder_that_is_killed_leaves_the_run_free(run_folder: Path, start: Start, end: signal.Signals) -> None:
    holder = start(_HOLDER)
    assert _said(holder) == "held"
    with pytest.raises(RunError), run_lock(run_folder):
        pass

    holder.send_signal(end)
    assert holder.wait(timeout=60) != 0

    _assert_free(run_folder)


def test_a_loader_process_that_outlives_its_killed_parent_does_not_hold_the_run(run_folder: Path, start: Start) -> None:
    holder = start(_HOLDER_WITH_LOADER)
    loader_process_id = int(_said(holder))
    try:
        with pytest.raises(RunError), run_lock(run_folder):
            pass
        holder.kill()
        holder.wait()
        os.kill(loader_process_id, 0)  # It is alive.

        _assert_free(run_folder)
    finally:
        os.kill(loader_process_id, signal.SIGKILL)


def test_of_processes_that_come_at_once_exactly_one_gets_the_run(run_folder: Path, start: Start) -> None:
    racers = [start(_RACER) for _ in range(4)]
    for racer in racers:
        _tell(racer)

    assert sorted(map(_said, racers)) == ["held", "refused", "refused", "refused"]


def test_an_error_in_the_block_passes_and_frees_the_run(run_folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(run_folder):
        raise ZeroDivisionError

    _assert_free(run_folder)


def test_the_folder_is_made_and_the_lock_that_stays_in_it_is_no_content_and_names_nobody(run_folder: Path) -> None:
    with run_lock(run_folder):
        assert json.loads((run_folder / LOCK_NAME).read_text(encoding="utf-8"))["process_id"] == os.getpid()
        assert contents_without_lock(run_folder) == []
        (run_folder / "run.json").touch()

    assert (run_folder / LOCK_NAME).read_bytes() == b""
    assert contents_without_lock(run_folder) == [run_folder / "run.json"]


def test_a_lock_inside_one_process_is_not_re_entrant(run_folder: Path) -> None:
    with run_lock(run_folder), pytest.raises(RunError, match=f"process {os.getpid()} "), run_lock(run_folder):
        pass


@pytest.mark.parametrize("content", [b"", b'{"process_id": 1', b"\xff", b'{"process_id": 1}'])
def test_a_holder_that_has_not_written_its_name_is_another_process(
    run_folder: Path, start: Start, content: bytes
) -> None:
    assert _said(start(_HOLDER)) == "held"
    (run_folder / LOCK_NAME).write_bytes(content)

    with pytest.raises(RunError, match=r"is in use by another process\.$"), run_lock(run_folder):
        pass


def test_a_command_line_that_is_no_text_is_recorded_all_the_same(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["harness", "train", os.fsdecode(b"caf\xe9")])

    with run_lock(run_folder), pytest.raises(RunError, match=r"started as `harness train .*caf"), run_lock(run_folder):
        pass


def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder is wanted", encoding="utf-8")

    with pytest.raises(ArtifactError, match="cannot be written: ") as caught, run_lock(tmp_path / "runs" / "a"):
        pass
    assert "read-only" in caught.value.hint


def test_a_read_only_folder_is_an_error_with_a_hint(mounted_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mounted_disk)], check=True)

    with pytest.raises(ArtifactError, match=r"\.lock cannot be written: Read-only") as caught, run_lock(mounted_disk):
        pass
    assert "read-only" in caught.value.hint


def test_a_full_disk_is_an_error_that_says_so(mounted_disk: Path) -> None:
    (mounted_disk / "weights.bin").write_bytes(bytes(4096))

    with pytest.raises(ArtifactError, match="The disk is full"), run_lock(mounted_disk):
        pass

    (mounted_disk / "weights.bin").unlink()
    _assert_free(mounted_disk)


def _no_lock(number: int) -> Callable[[int, int], None]:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_warned_of_and_the_work_goes_on(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", _no_lock(number))
    done = []

    with caplog.at_level(logging.WARNING), run_lock(run_folder):
        done.append(True)

    assert done
    assert f"{run_folder} cannot be locked ({os.strerror(number)})" in caplog.text


def test_another_failure_of_the_lock_is_an_error(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", _no_lock(errno.EIO))

    with pytest.raises(ArtifactError, match="Input/output error"), run_lock(run_folder):
        pass
