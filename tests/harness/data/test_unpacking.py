"""Archives: what comes out of good ones, and that bad ones leave nothing behind, least of all outside."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from harness.core.errors import DataError
from harness.core.progress import SILENT
from harness.data.unpacking import is_archive, unpack


def _zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def _tar(path: Path, names: list[str], link: tuple[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
        if link:
            member = tarfile.TarInfo(link[0])
            member.type, member.linkname = tarfile.SYMTYPE, link[1]
            archive.addfile(member)
    return path


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("make", "name"), [(_zip, "films.zip"), (_tar, "films.tar.gz"), (_zip, "films.archive")])
def test_one_top_folder_keeps_its_name(tmp_path: Path, make, name: str) -> None:
    archive = make(tmp_path / name, ["Dataset/Train/covid/a.png", "Dataset/Test/b.png"])

    assert is_archive(archive)
    assert unpack(archive, SILENT) == tmp_path / "Dataset"

    assert _files(tmp_path) == {name, "Dataset/Train/covid/a.png", "Dataset/Test/b.png"}
    assert (tmp_path / "Dataset" / "Test" / "b.png").read_text() == "Dataset/Test/b.png"


@pytest.mark.parametrize(("make", "name"), [(_zip, "films.zip"), (_tar, "films.tar.gz")])
def test_several_top_folders_come_into_one_named_after_the_archive(tmp_path: Path, make, name: str) -> None:
    archive = make(tmp_path / name, ["train/a.png", "test/b.png"])

    assert unpack(archive, SILENT) == tmp_path / "films"
    assert _files(tmp_path / "films") == {"train/a.png", "test/b.png"}


def test_what_macos_adds_to_a_zip_is_left_out_of_account(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "films.zip", ["Dataset/train/a.png", "__MACOSX/Dataset/train/._a.png"])

    assert unpack(archive, SILENT) == tmp_path / "Dataset"
    assert _files(tmp_path) == {"films.zip", "Dataset/train/a.png"}


def test_what_was_unpacked_before_is_left_alone(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "films.zip", ["train/a.png", "test/b.png"])
    (unpack(archive, SILENT) / "train" / "a.png").write_text("looked at")

    unpack(archive, SILENT)

    assert (tmp_path / "films" / "train" / "a.png").read_text() == "looked at"


def test_the_leftovers_of_a_call_that_was_killed_are_replaced(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "films.zip", ["train/a.png", "test/b.png"])
    (tmp_path / ".films.zip.unpacking" / "old").mkdir(parents=True)

    unpack(archive, SILENT)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["films", "films.zip"]


@pytest.mark.parametrize("name", ["../outside.png", "train/../../outside.png", "/tmp/outside.png", "..\\outside.png"])
@pytest.mark.parametrize(("make", "archive_name"), [(_zip, "films.zip"), (_tar, "films.tar.gz")])
def test_a_member_that_leads_outside_is_refused_before_anything_is_written(
    tmp_path: Path, make, archive_name: str, name: str
) -> None:
    (tmp_path / "inside").mkdir()
    archive = make(tmp_path / "inside" / archive_name, ["train/a.png", name])

    with pytest.raises(DataError, match="would lie outside its folder") as caught:
        unpack(archive, SILENT)

    assert name in caught.value.message
    assert _files(tmp_path) == {f"inside/{archive_name}"}
    assert [path.name for path in (tmp_path / "inside").iterdir()] == [archive_name]


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        info = zipfile.ZipInfo("train/a.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(info, "/etc/passwd")

    with pytest.raises(DataError, match=r"or are links, first train/a\.png"):
        unpack(archive, SILENT)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside.png"])
def test_a_link_in_a_tar_that_leads_outside_is_refused_and_leaves_nothing(tmp_path: Path, target: str) -> None:
    archive = _tar(tmp_path / "films.tar.gz", ["train/a.png"], link=("train/b.png", target))

    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(archive, SILENT)

    assert [path.name for path in tmp_path.iterdir()] == ["films.tar.gz"]


@pytest.mark.parametrize("make", [_zip, _tar])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_archive_leaves_nothing_and_says_so(tmp_path: Path, make, place: float, cut: bool) -> None:
    archive = make(tmp_path / "films.zip", [f"train/{i}.png" for i in range(200)])
    content = bytearray(archive.read_bytes())
    at = int(len(content) * place)
    content[at : None if cut else at + 200] = b"" if cut else bytes(200)
    archive.write_bytes(content)

    with pytest.raises(DataError, match="cannot be unpacked") as caught:
        unpack(archive, SILENT)

    assert "by hand" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["films.zip"]


def test_a_plain_tar_with_a_damaged_header_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    archive = tmp_path / "films.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("train/a.png", "train/b.png", "train/c.png"):
            tar.addfile(tarfile.TarInfo(name))
    content = bytearray(archive.read_bytes())
    content[512:522] = b"xxxxxxxxxx"
    archive.write_bytes(content)

    with pytest.raises(DataError, match="goes on after what looks like its end"):
        unpack(archive, SILENT)


def test_films_and_other_files_are_no_archives(tmp_path: Path) -> None:
    for name, content in {"a.png": b"\x89PNG", "b.zip": b"Rar!\x1a\x07", "c.gz": b"", "notes.txt": b"text"}.items():
        (tmp_path / name).write_bytes(content)
        assert not is_archive(tmp_path / name)
