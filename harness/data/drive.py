"""Google Drive through gdown, and all that can go wrong with it in words: the one place that knows either.

gdown writes beside the target (its name, eight random characters, `.part`) and renames when the last byte has come: a
target that exists is whole, and a partial file is gone on with by the next call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gdown
from gdown.exceptions import DownloadError, FileURLRetrievalError
from requests import exceptions as requests_errors

from harness.core.errors import DataError
from harness.core.files import is_disk_full

OnBytes = Callable[[int, int | None], None]
_GO_ON = "Run the same command again: it goes on where it stopped."


@dataclass(frozen=True, kw_only=True)
class Drive:
    """Where files are fetched from, and with how much patience. Tests name a server of their own."""

    base_url: str = "https://drive.google.com"
    retries: int = 2
    connect_timeout_s: float = 20.0
    read_timeout_s: float = 60.0

    def file_page(self, identifier: str) -> str:
        return f"{self.base_url}/file/d/{identifier}/view"

    def folder_page(self, identifier: str) -> str:
        return f"{self.base_url}/drive/folders/{identifier}"


@dataclass(frozen=True, kw_only=True)
class DriveFile:
    """One file: its id, and where it belongs."""

    identifier: str
    target: Path


def fetch_file(drive: Drive, file: DriveFile, on_bytes: OnBytes) -> bool:
    """Fetch a file unless it lies at its target; return whether it had to be.

    `on_bytes` is told how many bytes there are, of how many if that is known. Raises DataError where the file cannot
    be had; what came is kept.
    """
    target = file.target
    if target.is_file() and not _is_web_page(target):
        return False
    page = drive.file_page(file.identifier)
    by_hand = f"By hand: open {page} in a browser, save the file as {target}, and run the same command again."
    with _errors_in_words(f"{target.name} cannot be had from {page}", by_hand, partial=target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # A web page of before.
        gdown.download(
            url=f"{drive.base_url}/uc?id={file.identifier}",
            output=str(target),
            quiet=True,  # gdown's own bar; ours is fed by `progress`
            use_cookies=False,  # Nothing is read from or left in the user's home; a public file needs none.
            resume=True,
            progress=on_bytes,
            timeout=(drive.connect_timeout_s, drive.read_timeout_s),
            retries=drive.retries,
        )
    # gdown knows Drive's pages for "too large to scan" and the like; any other comes as if it were the file.
    if _is_web_page(target):
        target.unlink()
        raise DataError(
            f"{target.name} cannot be had from {page}: a web page came in its place. The file was asked for too often "
            "today, or is no longer public.",
            hint=f"Try again tomorrow. {by_hand}",
        )
    return True


def files_of_folder(drive: Drive, identifier: str, out: Path) -> list[DriveFile]:
    """Return the files of a public folder and of those inside it, with their places under `out`.

    gdown has drive.google.com written into its listing of folders, so `base_url` does not reach it; tests put a
    function of their own in the place of gdown's.
    """
    page = drive.folder_page(identifier)
    by_hand = f"By hand: open {page} in a browser, place all that it holds in {out}, and run the same command again."
    what = f"The list of files cannot be had from {page}"
    with _errors_in_words(what, by_hand, partial=None):
        listed = gdown.download_folder(
            id=identifier,
            output=str(out),
            quiet=True,
            use_cookies=False,
            skip_download=True,  # It would stop at nothing and show no progress; the files are fetched one by one.
            timeout=(drive.connect_timeout_s, drive.read_timeout_s),
        )
    files = []
    for each in listed:
        assert not isinstance(each, str), "gdown lists ids and paths where it does not download"
        target = out / each.path
        if not target.resolve().is_relative_to(out.resolve()):
            raise DataError(f"{page} lists a file outside its folder: {each.path}.", hint=by_hand)
        files.append(DriveFile(identifier=each.id, target=target))
    if not files:
        raise DataError(f"{what}: it lists none, and may no longer be public.", hint=by_hand)
    return files


@contextmanager
def _errors_in_words(what: str, by_hand: str, *, partial: Path | None) -> Iterator[None]:
    """Translate what gdown and the library under it raise; requests' errors are OSErrors, as a full disk is one."""
    try:
        yield
    except FileURLRetrievalError as error:
        raise DataError(f"{what}: {_one_line(error)}", hint=f"Try again tomorrow. {by_hand}") from error
    except (DownloadError, requests_errors.RequestException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, requests_errors.RequestException) else error
        if isinstance(cause, requests_errors.HTTPError) and cause.response is not None:
            answer = f"the server answered {cause.response.status_code} {cause.response.reason}."
            raise DataError(f"{what}: {answer}", hint=by_hand) from error
        begin_again = f" Or delete {partial}*.part to begin again." if partial and "byte range" in str(error) else ""
        raise DataError(f"{what}: {_one_line(error)}", hint=f"{_GO_ON}{begin_again} {by_hand}") from error
    except OSError as error:
        why = "the disk is full." if is_disk_full(error) else f"{error}."
        raise DataError(f"{what}: {why}", hint=f"Make room or choose another folder. {_GO_ON}") from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # requests wraps the reason three times, as in `Max ... (Caused by X("Y(host=...): Connection refused"))`.
    innermost = re.search(r"\(Caused by .*\): ([^\"]+)", text)
    return (innermost[1] if innermost else text)[:300]


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as stream:
        beginning = stream.read(512).lstrip().lower()
    return beginning.startswith((b"<!doctype html", b"<html"))
