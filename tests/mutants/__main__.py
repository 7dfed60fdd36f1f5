"""`make mutants`: damage what a trained run exports in every way known, and see whether the gate notices.

    python -m tests.mutants --films FOLDER                  train a run on these films first (phantoms without)
    python -m tests.mutants --runs RUNS --run NAME          take a trained run, of which a copy is used

Prints a row for every mutant and every honest rebuild, then one line of JSON. Exit code 1: a harmful mutant was missed
or called by a wrong reason, or a rebuild was accused.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import click

from harness.console import console_progress, print_table
from harness.core.errors import HarnessError
from harness.core.progress import Progress
from harness.core.runs import RunDirectory, runs_from_names
from tests.mutants.caller import Harm
from tests.mutants.judging import MutantRow, RebuildRow
from tests.mutants.running import MUTANTS, REBUILDS, mutant_rows, rebuild_rows
from tests.mutants.subject import made_subject

_COLUMNS = ["file", "runtime", "accuracy", "changed", "decisions", "verdict", "step", "reason"]
_REASON_LENGTH = 110


@click.command(help=__doc__)
@click.option("--films", type=click.Path(path_type=Path), help="Folder of class folders; phantoms where it is absent.")
@click.option("--runs", "runs_folder", type=click.Path(path_type=Path), default="runs", show_default=True)
@click.option("--run", "name", help="A trained run instead of training one.")
@click.option("--work", type=click.Path(path_type=Path), default="demo/mutants", show_default=True)
@click.option("--only", default="", help="Only mutants whose name contains this, and no rebuilds.")
def main(films: Path | None, runs_folder: Path, name: str | None, work: Path, only: str) -> None:
    progress = console_progress()
    try:
        given = runs_from_names(runs_folder, (name,))[0] if name else None
        passed = _run(work, films if films is not None and films.is_dir() else None, given, only, progress)
    except HarnessError as error:
        click.echo(f"Error: {error.message}\n{error.hint}", err=True)
        sys.exit(1)
    sys.exit(0 if passed else 1)


def _run(work: Path, films: Path | None, given: RunDirectory | None, only: str, progress: Progress) -> bool:
    # A folder for each subject: runs of films and of phantoms have one name.
    work = work / (given.name if given is not None else "phantoms" if films is None else "films")
    subject = made_subject(work, films, given, progress)
    mutants, left_out = mutant_rows(subject, [each for each in MUTANTS if only in each.name], work, progress)
    rebuilds, absent = ([], []) if only else rebuild_rows(subject, REBUILDS, work, progress)
    shutil.rmtree(work / "again", ignore_errors=True)
    record = subject.run.finished_record()
    what = "SYNTHETIC PHANTOMS" if record.contract.synthetic else "real films"
    click.echo(f"{subject.run.name}, {record.contract.preprocessing.crop_px} px, {what}.")
    print_table("Mutants", ["mutant", *_COLUMNS, "remark"], [_mutant_cells(row) for row in mutants])
    print_table("Rebuilds", ["rebuild", *_COLUMNS], [_rebuild_cells(row) for row in rebuilds])
    click.echo("accuracy, changed answers, changed decisions at the threshold: in points, beside the float32 file.")
    for each in (*left_out, *absent):
        click.echo(f"Left out: {each}")
    summary = summary_of(mutants, rebuilds)
    click.echo(json.dumps(summary))
    return summary["caught"] == summary["harmful"] and summary["false_alarms"] == 0


def summary_of(mutants: list[MutantRow], rebuilds: list[RebuildRow]) -> dict[str, int]:
    """Return the closing line: how many were harmful and of these caught, how many rebuilds accused."""
    return {
        "mutants": len(mutants),
        "harmful": sum(row.harmful for row in mutants),
        "caught": sum(row.harmful and row.caught for row in mutants),
        "rebuilds": len(rebuilds),
        "false_alarms": sum(row.accused for row in rebuilds),
    }


def _mutant_cells(row: MutantRow) -> list[str]:
    mutant, judgement = row.mutant, row.judgement
    told = [judgement.word, judgement.step, _short(judgement.reason), row.remark]
    return [mutant.name, mutant.file, mutant.backend, *_harm_cells(row.harm), *told]


def _rebuild_cells(row: RebuildRow) -> list[str]:
    judgement = row.judgement
    told = [judgement.word, judgement.step, _short(judgement.reason)]
    return [row.name, row.file, row.backend, *_harm_cells(row.harm), *told]


def _harm_cells(harm: Harm | None) -> list[str]:
    if harm is None:
        return ["n/a"] * 3
    cells = [f"{100 * harm.accuracy_change:+.2f}", f"{100 * harm.changed:.2f}", f"{100 * harm.decisions:.2f}"]
    return [cells[0] + " NaN" * (harm.no_numbers > 0), *cells[1:]]


def _short(reason: str) -> str:
    return reason if len(reason) <= _REASON_LENGTH else f"{reason[: _REASON_LENGTH - 3]}..."


if __name__ == "__main__":
    main()
