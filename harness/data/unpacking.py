"""Zip and tar archives unpacked beside themselves: whole or not at all, and never outside their folder."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from harness.core.errors import DataError
from harness.core.progress import Progress

_SUFFIXES = {".zip", ".tar", ".tgz", ".gz", ".tbz", ".bz2", ".txz", ".xz", ".archive"}
_CHUNK_BYTES = 1 << 20
_JUNK = {"__MACOSX", ".DS_Store"}  # What macOS adds to the zip files it makes.
# What the standard library raises for archives that are damaged, encrypted or not archives at all.
_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError)


def is_archive(path: Path) -> bool:
    """Tell by name and content whether a file is an archive that can be unpacked."""
    named = path.suffix.lower() in _SUFFIXES and path.is_file()
    return named and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def unpack(archive: Path, progress: Progress) -> Path:
    """Unpack an archive into its own folder and return what came out: its one top folder, or one named after it.

    Where that exists the archive was unpacked before and nothing is done. Raises DataError, leaving nothing behind,
    where the archive is damaged or a member would come to lie outside.
    """
    temporary = archive.with_name(f".{archive.name}.unpacking")
    try:
        names = _checked_names(archive)
        tops = {name.parts[0] for name in names} - _JUNK
        is_one_folder = len(tops) == 1 and any(len(name.parts) > 1 and name.parts[0] in tops for name in names)
        target = archive.with_name(next(iter(tops)) if is_one_folder else _stem(archive))
        if target.is_dir():
            return target
        shutil.rmtree(temporary, ignore_errors=True)  # Of a call that was killed.
        with progress.task(f"Unpacking {archive.name}", total=len(names)) as task:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as zipped:
                    for info in zipped.infolist():
                        zipped.extract(info, temporary)
                        task.advance()
            else:
                with tarfile.open(archive) as tar:
                    for member in tar:
                        tar.extract(member, temporary, filter="data")
                        task.advance()
        os.replace(temporary / target.name if is_one_folder else temporary, target)
    except _UNREADABLE as error:
        raise DataError(
            f"{archive} cannot be unpacked: {error}.",
            hint=f"Delete it and run the same command again, or unpack it by hand in {archive.parent}.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _checked_names(archive: Path) -> list[PurePosixPath]:
    """Return the members' names; raise DataError where one leads outside.

    zipfile would silently drop the `..` of a name and tarfile checks while it writes: here nothing of such an archive
    is written at all.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            infos = zipped.infolist()
        members = [(info.filename, stat.S_ISLNK(info.external_attr >> 16)) for info in infos]
    else:
        # Links inside a tar are for the "data" filter to judge, which knows where they lead.
        members = [(name, False) for name in _names_in_tar(archive)]
    paths = [PurePosixPath(name.replace("\\", "/")) for name, _ in members]
    odd = [
        name
        for path, (name, is_link) in zip(paths, members, strict=True)
        if path.is_absolute() or ".." in path.parts or is_link
    ]
    if odd:
        raise DataError(
            f"{archive} is refused: {len(odd)} of its members would lie outside its folder or are links, "
            f"first {odd[0]}. Nothing of it was unpacked.",
            hint="An archive of films has no such members: it is not what it should be. Delete it.",
        )
    return [path for path in paths if path.parts]


def _names_in_tar(archive: Path) -> list[str]:
    """Return the names in a tar file that was read to its very end.

    tarfile takes a damaged header for the end, and the sum of a compressed file is compared only by whoever reaches it.
    """
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        assert tar.fileobj is not None, "it was opened by name"
        while block := tar.fileobj.read(_CHUNK_BYTES):
            if block.strip(b"\0"):
                raise tarfile.ReadError("it is damaged and goes on after what looks like its end")
    return names


def _stem(archive: Path) -> str:
    name = Path(archive.name)
    while name.suffix.lower() in _SUFFIXES:
        name = name.with_suffix("")
    return name.name
