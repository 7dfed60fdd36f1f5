"""Fetching through gdown from a server of this machine: whole, resumed, refused, and every failure in words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gdown
import pytest
import requests
from gdown.exceptions import DownloadError, FileURLRetrievalError

from harness.core.errors import DataError
from harness.data.drive import Drive, DriveFile, fetch_file, files_of_folder

_CONTENT = random.Random(0).randbytes(3_000_000)


def _nothing(done_bytes: int, total_bytes: int | None) -> None:
    pass


@pytest.fixture
def file(tmp_path: Path) -> DriveFile:
    return DriveFile(identifier="film", target=tmp_path / "new" / "films.zip")


def _partial_files(file: DriveFile) -> list[Path]:
    return list(file.target.parent.glob("films.zip*.part"))


def test_a_file_comes_whole_and_tells_how_far_it_is(fake_drive: Any, file: DriveFile) -> None:
    fake_drive.files["film"] = _CONTENT
    told: list[tuple[int, int | None]] = []

    assert fetch_file(fake_drive.drive, file, lambda done, total: told.append((done, total)))

    assert file.target.read_bytes() == _CONTENT
    assert told[-1] == (3_000_000, 3_000_000)
    assert len(told) > 3
    assert list(file.target.parent.iterdir()) == [file.target]


def test_a_file_that_is_there_is_not_asked_for(fake_drive: Any, file: DriveFile) -> None:
    file.target.parent.mkdir()
    file.target.write_bytes(b"by hand")

    assert not fetch_file(fake_drive.drive, file, _nothing)

    assert fake_drive.requests == []
    assert file.target.read_bytes() == b"by hand"


def test_an_interrupted_download_is_kept_and_only_the_rest_is_asked_for(fake_drive: Any, file: DriveFile) -> None:
    fake_drive.files["film"] = _CONTENT
    fake_drive.faults["film"] = "cut"
    with pytest.raises(DataError, match="Download is incomplete") as caught:
        fetch_file(fake_drive.drive, file, _nothing)
    (partial,) = _partial_files(file)
    kept_bytes = partial.stat().st_size
    assert not file.target.exists()
    assert "goes on where it stopped" in caught.value.hint

    fake_drive.faults.clear()
    assert fetch_file(fake_drive.drive, file, _nothing)

    assert 0 < kept_bytes <= 1_500_000
    assert fake_drive.requests[-1] == ("film", f"bytes={kept_bytes}-")
    assert file.target.read_bytes() == _CONTENT
    assert _partial_files(file) == []


def test_ctrl_c_keeps_what_came(fake_drive: Any, file: DriveFile) -> None:
    fake_drive.files["film"] = _CONTENT

    def press(done_bytes: int, total_bytes: int | None) -> None:
        if done_bytes > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_file(fake_drive.drive, file, press)
    (partial,) = _partial_files(file)
    kept = partial.read_bytes()
    fetch_file(fake_drive.drive, file, _nothing)

    assert len(kept) > 1_000_000
    assert _CONTENT.startswith(kept)
    assert file.target.read_bytes() == _CONTENT


def test_a_server_without_ranges_says_how_to_begin_again(fake_drive: Any, file: DriveFile) -> None:
    fake_drive.files["film"] = _CONTENT
    fake_drive.faults["film"] = "no ranges"
    file.target.parent.mkdir()
    (file.target.parent / "films.zipabcdefgh.part").write_bytes(_CONTENT[:1000])

    with pytest.raises(DataError, match="byte range") as caught:
        fetch_file(fake_drive.drive, file, _nothing)

    assert f"delete {file.target}*.part" in caught.value.hint


@pytest.mark.parametrize(("status", "words"), [(404, "404 Not Found"), (500, "500 Internal Server Error")])
def test_a_server_that_refuses_is_quoted_with_what_to_do_by_hand(
    fake_drive: Any, file: DriveFile, status: int, words: str
) -> None:
    fake_drive.faults["film"] = status

    with pytest.raises(DataError, match=f"films.zip cannot be had from .*: the server answered {words}") as caught:
        fetch_file(fake_drive.drive, file, _nothing)

    assert f"open {fake_drive.base_url}/file/d/film/view in a browser" in caught.value.hint
    assert f"save the file as {file.target}" in caught.value.hint
    assert not file.target.exists()


def test_a_web_page_in_place_of_the_file_is_not_taken_for_it(fake_drive: Any, file: DriveFile) -> None:
    fake_drive.files["film"] = b"\n<!DOCTYPE html><html><title>Quota exceeded</title></html>"

    with pytest.raises(DataError, match="a web page came in its place") as caught:
        fetch_file(fake_drive.drive, file, _nothing)
    assert not file.target.exists()
    assert "Try again tomorrow" in caught.value.hint

    file.target.write_bytes(fake_drive.files["film"])  # Saved by hand without a look.
    fake_drive.files["film"] = _CONTENT
    assert fetch_file(fake_drive.drive, file, _nothing)
    assert file.target.read_bytes() == _CONTENT


@pytest.mark.parametrize("retries", [0, 1])
def test_no_network_is_told_with_the_address_and_what_to_do(
    file: DriveFile, closed_url: str, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    drive = Drive(base_url=closed_url, retries=retries, connect_timeout_s=5)
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # gdown waits that long before a retry.

    with pytest.raises(
        DataError, match=r": Failed to establish a new connection: \[Errno 111\] Connection refused$"
    ) as caught:
        fetch_file(drive, file, _nothing)

    assert f"{closed_url}/file/d/film/view" in caught.value.message
    assert str(file.target) in caught.value.hint
    assert "run the same command again" in caught.value.hint


def test_a_folder_that_cannot_be_written_is_told(fake_drive: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, no folder")
    fake_drive.files["film"] = _CONTENT

    with pytest.raises(DataError, match=r"File exists|Not a directory") as caught:
        fetch_file(fake_drive.drive, DriveFile(identifier="film", target=tmp_path / "taken" / "films.zip"), _nothing)

    assert "choose another folder" in caught.value.hint


def test_google_drives_own_refusal_is_put_into_words(file: DriveFile, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only for drive.google.com does gdown read the page that says so.
    def refused(**_: Any) -> None:
        raise FileURLRetrievalError("Failed to retrieve file url:\n\n\tToo many users have viewed this file")

    monkeypatch.setattr(gdown, "download", refused)

    with pytest.raises(DataError, match="Too many users have viewed this file") as caught:
        fetch_file(Drive(), file, _nothing)

    assert "https://drive.google.com/file/d/film/view" in caught.value.hint


def _listing(*paths: str) -> Any:
    def listed(**options: Any) -> list[Any]:
        from gdown.download import GoogleDriveFileToDownload

        assert options["skip_download"]
        assert not options["use_cookies"]
        return [GoogleDriveFileToDownload(f"id-{path}", path, f"{options['output']}/{path}") for path in paths]

    return listed


def test_the_files_of_a_folder_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdown, "download_folder", _listing("train/infected/a.png", "notes.txt"))

    files = files_of_folder(Drive(), "folder", tmp_path)

    assert files == [
        DriveFile(identifier="id-train/infected/a.png", target=tmp_path / "train" / "infected" / "a.png"),
        DriveFile(identifier="id-notes.txt", target=tmp_path / "notes.txt"),
    ]


@pytest.mark.parametrize(
    ("paths", "words"), [((), "it lists none"), (("../outside.png",), r"outside its folder: \.\./outside\.png")]
)
def test_a_folder_that_lists_nothing_or_leads_outside_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr(gdown, "download_folder", _listing(*paths))

    with pytest.raises(DataError, match=words) as caught:
        files_of_folder(Drive(), "folder", tmp_path)

    assert f"place all that it holds in {tmp_path}" in caught.value.hint


@pytest.mark.parametrize(
    "error",
    [
        DownloadError("status code 404"),
        requests.exceptions.ConnectionError('Max (Caused by X("Y(host=h): no route to host"))'),
    ],
)
def test_a_folder_that_cannot_be_listed_is_told_with_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(gdown, "download_folder", fail)

    with pytest.raises(DataError, match=r"status code 404|: no route to host") as caught:
        files_of_folder(Drive(), "folder", tmp_path)

    assert "https://drive.google.com/drive/folders/folder" in caught.value.hint
    assert caught.value.__cause__ is error


def test_gdown_still_has_the_signatures_that_are_relied_on() -> None:
    import inspect

    for function, names in {
        gdown.download: {"url", "output", "quiet", "use_cookies", "resume", "progress", "timeout", "retries"},
        gdown.download_folder: {"id", "output", "quiet", "use_cookies", "skip_download", "timeout"},
    }.items():
        assert names <= set(inspect.signature(function).parameters)
