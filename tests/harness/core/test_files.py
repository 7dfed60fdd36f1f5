"""A written file is whole or absent, whatever interrupts the writing; a hash is of the bytes that are there."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import ArtifactError
from harness.core.files import (
    is_disk_full,
    sha256_from_file,
    sha256_from_text,
    write_atomically,
    write_text_atomically,
)
from harness.core.tensors import save_tensors


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _half_then(error: BaseException) -> object:
    def write(temporary: Path) -> None:
        temporary.write_text("half of the n", encoding="utf-8")
        raise error

    return write


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def dead_process_id() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (RuntimeError("a bug"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), ArtifactError),
        (OSError(errno.EIO, "Input/output error"), ArtifactError),
    ],
    ids=["a bug", "Ctrl-C", "full disk", "broken disk"],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException, seen: type[BaseException]
) -> None:
    path = tmp_path / "state.json"
    write_text_atomically(path, "old")

    with pytest.raises(seen):
        write_atomically(path, _half_then(error))  # type: ignore[arg-type]

    assert path.read_text(encoding="utf-8") == "old"
    assert _names(tmp_path) == ["state.json"]


def test_a_failed_first_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "state.json", _half_then(KeyboardInterrupt()))  # type: ignore[arg-type]

    assert _names(tmp_path) == []


def test_a_file_appears_in_folders_that_did_not_exist_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"

    write_text_atomically(path, "first\n")
    write_text_atomically(path, "second ü\n")

    assert path.read_bytes() == "second ü\n".encode()
    assert _names(path.parent) == ["text.txt"]


def test_saved_tensors_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    import torch

    before = os.umask(0o027)
    try:
        save_tensors(tmp_path / "weights", {"weight": torch.zeros(3)})
        assert os.umask(0o027) == 0o027, "looking at the umask must not change it"
    finally:
        os.umask(before)

    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o640


def test_a_really_full_disk_is_an_error_that_says_so_and_keeps_the_old_file(small_disk: Path) -> None:
    path = small_disk / "weights.bin"
    write_atomically(path, lambda temporary: _fill(temporary, 1000))

    with pytest.raises(ArtifactError, match=r"disk is full.*weights\.bin was not written") as caught:
        write_atomically(path, lambda temporary: _fill(temporary, 2_000_000))

    assert str(small_disk) in caught.value.hint
    assert path.stat().st_size == 1000
    assert _names(small_disk) == ["weights.bin"], "the half-written file would keep the disk full"


def _fill(path: Path, size_bytes: int) -> None:
    path.write_bytes(bytes(size_bytes))


def test_tensors_on_a_full_disk_are_the_same_error(small_disk: Path) -> None:
    torch = pytest.importorskip("torch")
    from harness.core.tensors import save_tensors

    tensors = {"weight": torch.zeros(1_000_000)}
    with pytest.raises(ArtifactError, match="disk is full"):
        write_atomically(small_disk / "weights.safetensors", lambda temporary: save_tensors(temporary, tensors))

    assert _names(small_disk) == []


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("out of memory"), False),
    ],
)
def test_want_of_space_is_known_by_number_and_by_words(error: BaseException, full: bool) -> None:
    assert is_disk_full(error) is full


def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder is wanted", encoding="utf-8")

    with pytest.raises(ArtifactError, match="cannot be written: ") as caught:
        write_text_atomically(tmp_path / "runs" / "a" / "run.json", "{}")

    assert "read-only" in caught.value.hint


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path, dead_process_id: int) -> None:
    leftover = tmp_path / f".engine.{dead_process_id}.tmp"
    leftover.touch()

    write_text_atomically(tmp_path / "engine", "new")

    assert _names(tmp_path) == ["engine"]


def test_what_a_living_process_is_writing_is_kept_and_so_is_what_belongs_to_other_files(
    tmp_path: Path, dead_process_id: int
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        kept = [f".engine.{living.pid}.tmp", f".other.{dead_process_id}.tmp", ".engine.notes.tmp"]
        for name in kept:
            (tmp_path / name).touch()

        write_text_atomically(tmp_path / "engine", "new")

        assert _names(tmp_path) == sorted([*kept, "engine"])
        assert living.stdin is not None
        living.stdin.write(b"\n")


def test_a_killed_writer_leaves_the_old_file_and_the_next_writer_removes_its_half(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_text_atomically(path, "old")
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom harness.core.files import write_atomically\n"
        "def write(temporary):\n    temporary.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), write)\n"
    )

    subprocess.run([sys.executable, "-P", "-c", program, str(path)], check=False)

    assert path.read_text(encoding="utf-8") == "old"
    assert len(_names(tmp_path)) == 2, "the killed writer leaves its half"
    write_text_atomically(path, "new")
    assert _names(tmp_path) == ["state.json"]


def test_a_file_without_durability_is_written_whole_all_the_same(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", lambda temporary: _fill(temporary, 10), durable=False)

    assert (tmp_path / "x").stat().st_size == 10


def test_a_hash_is_of_the_bytes_and_follows_a_change_of_them(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    content = np.random.default_rng(0).bytes((1 << 20) + 17)  # more than one chunk
    path.write_bytes(content)
    assert sha256_from_file(path) == hashlib.sha256(content).hexdigest()

    path.write_bytes(content[:-1])

    assert sha256_from_file(path) == hashlib.sha256(content[:-1]).hexdigest()


def test_a_file_replaced_by_one_of_the_same_size_has_its_own_hash(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text_atomically(path, "aaaa")
    first = sha256_from_file(path)

    write_text_atomically(path, "bbbb")

    assert sha256_from_file(path) == sha256_from_text("bbbb") != first
