"""Makes, judges and measures mutants and rebuilds one after another, each in a bed of its own that is removed again."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.progress import Progress
from harness.core.runs import RunDirectory
from tests.mutants import contracts, ends, precisions, rows, runtimes, weights
from tests.mutants.bed import Bed, NotApplicableError, made_bed
from tests.mutants.caller import Asked, Films, ask, harm_of
from tests.mutants.judging import MutantRow, RebuildRow, judgement_of
from tests.mutants.mutant import Mutant
from tests.mutants.rebuilds import REBUILDS, Rebuild, export_again
from tests.mutants.subject import HAS_OPENVINO, Subject

MUTANTS: tuple[Mutant, ...] = tuple(
    mutant for module in (weights, ends, rows, precisions, contracts, runtimes) for mutant in module.MUTANTS
)
_YARDSTICK = "fp32.onnx"


class Caller:
    """The films of both runs and what the honest float32 files answer to them, asked once."""

    def __init__(self, subject: Subject, work: Path) -> None:
        self._runs = {"films": subject.run, "colour": subject.colour}
        self._work = work
        self._films: dict[str, Films] = {}
        self._honest: dict[str, Asked] = {}

    def films(self, data: str) -> Films:
        if data not in self._films:
            self._films[data] = Films(self._runs[data])
        return self._films[data]

    def honest(self, data: str) -> Asked:
        if data not in self._honest:
            run = self._runs[data]
            with _bed(self._work / "yardstick", run, run, _YARDSTICK) as bed:
                self._honest[data] = ask(self.films(data), bed, backend="onnxruntime")
        return self._honest[data]


@contextmanager
def _bed(parent: Path, honest: RunDirectory, other: RunDirectory, file: str) -> Iterator[Bed]:
    try:
        yield made_bed(parent, honest, other, file)
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def mutant_rows(
    subject: Subject, mutants: Iterable[Mutant], work: Path, progress: Progress
) -> tuple[list[MutantRow], list[str]]:
    """Return a row for every mutant, and in words those that this run or machine cannot have."""
    mutants, caller = tuple(mutants), Caller(subject, work)
    found, left_out = [], []
    with progress.task("Mutants", total=len(mutants)) as task:
        for mutant in mutants:
            try:
                found.append(_mutant_row(subject, mutant, caller, work))
            except NotApplicableError as error:
                left_out.append(f"{mutant.name}, {mutant.file}: {error}")
            task.advance(note=mutant.name)
    return found, left_out


def _mutant_row(subject: Subject, mutant: Mutant, caller: Caller, work: Path) -> MutantRow:
    honest, other = subject.run, subject.colour
    if mutant.data == "colour":
        honest, other = other, honest
    with _bed(work / "mutant", honest, other, mutant.file) as bed:
        mutant.damage(bed)
        harm = None
        if mutant.measurable:
            asked = ask(caller.films(mutant.data), bed, backend=mutant.backend, batch_size=mutant.batch_size)
            harm = harm_of(caller.honest(mutant.data), asked)
        return MutantRow(mutant=mutant, harm=harm, judgement=judgement_of(bed, mutant.backend))


def rebuild_rows(
    subject: Subject, rebuilds: Iterable[Rebuild], work: Path, progress: Progress
) -> tuple[list[RebuildRow], list[str]]:
    """Return a row for every rebuild, and in words those that this machine cannot have."""
    rebuilds = tuple(rebuilds)
    again = subject.run
    if any(each.rewrite is None for each in rebuilds):
        again = _exported_again(subject, work, progress)
    caller = Caller(subject, work)
    found, left_out = [], []
    with progress.task("Rebuilds", total=len(rebuilds)) as task:
        for rebuild in rebuilds:
            honest = again if rebuild.rewrite is None else subject.run
            try:
                found.append(_rebuild_row(rebuild, honest, subject.colour, caller, work))
            except NotApplicableError as error:
                left_out.append(f"{rebuild.name}, {rebuild.file}: {error}")
            task.advance(note=rebuild.file)
    return found, left_out


def _exported_again(subject: Subject, work: Path, progress: Progress) -> RunDirectory:
    run = subject.run
    again = RunDirectory(work / "again" / run.name)
    progress.say("Exporting everything again in another process")
    shutil.rmtree(again.folder.parent, ignore_errors=True)
    shutil.copytree(run.folder, again.folder, ignore=shutil.ignore_patterns("export", "bench", "last"))
    shutil.copytree(run.evaluation_sets, again.evaluation_sets)
    export_again(again, subject.calibration, openvino=HAS_OPENVINO)
    return again


def _rebuild_row(rebuild: Rebuild, honest: RunDirectory, other: RunDirectory, caller: Caller, work: Path) -> RebuildRow:
    with _bed(work / "rebuild", honest, other, rebuild.file) as bed:
        if rebuild.rewrite is not None:
            rebuild.rewrite(bed)
        asked = ask(caller.films("films"), bed, backend=rebuild.backend)
        return RebuildRow(
            name=rebuild.name,
            file=rebuild.file,
            backend=rebuild.backend,
            harm=harm_of(caller.honest("films"), asked),
            judgement=judgement_of(bed, rebuild.backend),
        )


__all__ = ["MUTANTS", "REBUILDS", "mutant_rows", "rebuild_rows"]
