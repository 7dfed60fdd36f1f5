"""The study's data sets and weights from where it shared them, resumed where a download stopped, and counted.

Google Drive is not built for this: a file that many ask for is refused for a day. So every error says what to place
where by hand, and whatever lies there already, however it came, is not fetched again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from harness.core.cases import CASES, DATASETS, Case, DatasetKind, LabelMode
from harness.core.errors import DataError
from harness.core.progress import Progress
from harness.data.drive import Drive, DriveFile, fetch_file, files_of_folder
from harness.data.study_counts import checked_study_root, study_root
from harness.data.unpacking import is_archive, unpack

What = Literal["dataset1", "dataset2", "weights"]
# The write-up gives these two links and does not say which is which; the counts decide.
_DATASET1_FOLDER = "1-FzZhQO9oHIT9SNOWYoKsuz7fe447vtR"
_DATASET2_FILE = "1eytbwaLQBv12psV8I-aMkIli9N3bf8nO"
_DATASET2_ARCHIVE = "dataset2.archive"
WEIGHTS: Mapping[str, str] = MappingProxyType(
    {
        "d1-vgg16-fc": "1G5xKYoc8hRypjmjImlyX4xc-e2asyMsm",
        "d1-resnet18-fc": "1BmEuMgLekNIuDYvmnUDW4PJBDl7ON5Sc",
        "d1-vgg16-all": "1t3FihFki06-1r7pgccD2gm9VVXdOQltq",
        "d1-resnet18-all": "1-EKMaQjdWpUC-M04a7A0vshtxkwhgakw",
        "d2-vgg16-ce": "1--1T75uyhNGEVINuDrx2Rkpc1OeX7Zdr",
        "d2-resnet18-ce": "19zvuexsZY0TBas1G48rchZ1gipei7oUh",
        "d2-vgg16-focal": "1--oVgQp3Wf1ZmtLBxc83WdYNBznAGgbj",
        "d2-resnet18-focal": "1o8bKKwvngbnuApEX9qaQVZnN47UDIJUx",
    }
)
# Where this many files in a row cannot be had, the others cannot either: no network, or refused for the day.
_MOST_FAILURES_IN_A_ROW = 3


@dataclass(frozen=True, kw_only=True)
class DownloadResult:
    """What lies in `folder` now; `fetched` counts the files that had to be downloaded for it."""

    what: What
    folder: Path
    files: tuple[Path, ...]
    fetched: int
    next_commands: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """What a person should read."""
        state = f"{self.fetched} files fetched" if self.fetched else "nothing had to be fetched"
        begun = [f"{self.folder}: {self.what}, {state}.", *(f"Note: {note}" for note in self.notes), "Next:"]
        return [*begun, *(f"    {command}" for command in self.next_commands)]

    def summary(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "what": self.what,
            "folder": str(self.folder),
            "files": list(map(str, self.files)),
            "fetched": self.fetched,
            "next": list(self.next_commands),
            "notes": list(self.notes),
        }


def download(what: What, out: Path, progress: Progress, drive: Drive | None = None) -> DownloadResult:
    """Bring a data set or the weights of the eight cases into `out`; raise DataError where they are not to be had.

    A data set must have as many films as the study's. `drive` is another server than Google's, for tests.
    """
    drive = drive or Drive()
    if what == "weights":
        return _download_weights(out, progress, drive)
    dataset = next(dataset for dataset in DATASETS.values() if dataset.name == what)
    return _download_dataset(what, dataset, out, progress, drive)


def _download_dataset(what: What, dataset: DatasetKind, out: Path, progress: Progress, drive: Drive) -> DownloadResult:
    _unpack_all(out, progress)  # Archives that were placed by hand.
    root, fetched = study_root(out, dataset), 0
    if root is None:
        if what == "dataset1":
            files = files_of_folder(drive, _DATASET1_FOLDER, out)
        else:
            files = [DriveFile(identifier=_DATASET2_FILE, target=out / _DATASET2_ARCHIVE)]
        fetched = _fetch_all(drive, files, progress)
        archive = out / _DATASET2_ARCHIVE
        if what == "dataset2" and not is_archive(archive):
            raise DataError(
                f"{archive} is no zip or tar archive.",
                hint=f"Unpack it by hand in {out} and run the same command again, or delete it.",
            )
        _unpack_all(out, progress)
        root = checked_study_root(out, dataset)
    return DownloadResult(
        what=what,
        folder=root,
        files=(),
        fetched=fetched,
        next_commands=(f"harness data prepare {root} data/{what} --dataset {dataset.number}",),
        notes=("The films are as many in every split and class as the study's.",),
    )


def _unpack_all(out: Path, progress: Progress) -> None:
    for path in sorted(out.glob("*")):  # Not deeper: OUT may be somebody's folder of other things.
        if is_archive(path):
            unpack(path, progress)


def _download_weights(out: Path, progress: Progress, drive: Drive) -> DownloadResult:
    targets = {name: out / weights_name(case) for name, case in CASES.items()}
    files = [DriveFile(identifier=WEIGHTS[name], target=target) for name, target in targets.items()]
    fetched = _fetch_all(drive, files, progress)
    commands = [
        f"harness import {name} {target} --data data/dataset{CASES[name].dataset}"
        + (" --label-mode multilabel" if _label_mode(CASES[name]) == "multilabel" else "")
        for name, target in targets.items()
    ]
    return DownloadResult(
        what="weights",
        folder=out,
        files=tuple(targets.values()),
        fetched=fetched,
        next_commands=tuple(commands),
        notes=("The study trained its dataset-2 cases multi-label: import them with `--label-mode multilabel`.",),
    )


def _label_mode(case: Case) -> LabelMode:
    return "multilabel" if case.dataset == 2 else "multiclass"


def weights_name(case: Case) -> str:
    """Return the file name of the study's weights of a case, which says where they are multi-label."""
    return f"{case.name}-multilabel.pth" if _label_mode(case) == "multilabel" else f"{case.name}.pth"


def _fetch_all(drive: Drive, files: Sequence[DriveFile], progress: Progress) -> int:
    """Fetch every file that is not there and return how many; one that fails does not keep the others from coming."""
    fetched, failures, in_a_row = 0, list[DataError](), 0
    with progress.task("Downloading", total=len(files)) as task:

        def tell(name: str, done_bytes: int, total_bytes: int | None) -> None:
            of_total = f" of {total_bytes / 1e6:.1f}" if total_bytes else ""
            task.advance(0, note=f"{name} {done_bytes / 1e6:.1f}{of_total} MB")

        for file in files:
            try:
                fetched += fetch_file(drive, file, partial(tell, file.target.name))
                in_a_row = 0
            except DataError as error:
                failures.append(error)
                in_a_row += 1
            if in_a_row == _MOST_FAILURES_IN_A_ROW:
                break
            task.advance()
    if len(failures) == 1:
        raise failures[0]
    if failures:
        listed = "\n  ".join(error.message for error in failures[:20])
        raise DataError(f"{len(failures)} of {len(files)} files cannot be had:\n  {listed}", hint=failures[0].hint)
    return fetched
