"""How the command line talks: results on stdout, the rest on stderr; bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import click

from harness.core.progress import Progress, Task

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from harness.data.prepare import PrepareResult

# A log file wants to know that work goes on, not every step of it.
_PLAIN_INTERVAL_S = 15.0


def console_progress(*, plain: bool = False) -> Progress:
    """Return bars where stderr is a terminal, else lines; lines too where `plain`, which needs no library."""
    return _Bars() if sys.stderr.isatty() and not plain else _Lines()


class _LineTask:
    def __init__(self, description: str, total: int | None) -> None:
        self._description = description
        self._total = total
        self._done = 0
        self._started_s = self._said_s = time.monotonic()

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self._done += amount
        now_s = time.monotonic()
        if now_s - self._said_s >= _PLAIN_INTERVAL_S:
            self._said_s = now_s
            self._say(note)

    def _say(self, note: str) -> None:
        elapsed_s = time.monotonic() - self._started_s
        left = ""
        if self._total and 0 < self._done <= self._total:
            left = f", about {elapsed_s / self._done * (self._total - self._done):.0f} s left"
        of_total = f"/{self._total}" if self._total else ""
        click.echo(f"{self._description}: {self._done}{of_total}{left} {note}".rstrip(), err=True)

    def finish(self) -> None:
        elapsed_s = time.monotonic() - self._started_s
        if elapsed_s >= 1.0:
            click.echo(f"{self._description}: done in {elapsed_s:.1f} s", err=True)


class _Lines:
    @contextmanager
    def task(self, description: str, *, total: int | None) -> Iterator[Task]:
        task = _LineTask(description, total)
        yield task
        task.finish()

    def say(self, message: str) -> None:
        click.echo(message, err=True)


class _BarTask:
    def __init__(self, bars: RichProgress, identifier: TaskID) -> None:
        self._bars = bars
        self._identifier = identifier

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self._bars.update(self._identifier, advance=amount, note=note)


class _Bars:
    def task(self, description: str, *, total: int | None) -> AbstractContextManager[Task]:
        return self._task(description, total)

    @contextmanager
    def _task(self, description: str, total: int | None) -> Iterator[Task]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True)) as bars:
            yield _BarTask(bars, bars.add_task(description, total=total, note=""))

    def say(self, message: str) -> None:
        click.echo(message, err=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, plain: bool = False) -> None:
    """Print a table to stdout; on a terminal with rich unless `plain`, else with padding that survives a log file."""
    if sys.stdout.isatty() and not plain:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        # As text, not markup: `.[rtx]` in a message is no style.
        table = Table(title=Text(title))
        for column in columns:
            table.add_column(column, overflow="fold")  # Or the end of a long path would be lost.
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    click.echo(title)
    for row in (columns, ["-" * width for width in widths], *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_prepared(result: PrepareResult, as_json: bool) -> None:
    """Print what `harness data` made: films by split and class, groups, notes."""
    if as_json:
        click.echo(json.dumps(_prepared_summary(result)))
        return
    manifest = result.manifest
    names = _class_columns(result)
    print_table(f"{manifest.path.parent}: films by split and class", ["split", *names], _prepared_rows(result, names))
    how = "split as the source has it" if result.split_by_source else "split by group"
    click.echo(f"{len(manifest.rows)} films in {result.group_count} groups (patients), {how}.")
    for note in result.notes:
        click.echo(f"Note: {note}")
    click.echo(f"Manifest: {manifest.path}")


def print_prepared_folds(results: Sequence[PrepareResult], as_json: bool) -> None:
    """Print what `harness data prepare --folds` made: films by fold, split and class, groups, notes."""
    if as_json:
        click.echo(json.dumps({"folds": [_prepared_summary(result) for result in results]}))
        return
    folders, first = [result.manifest.path.parent for result in results], results[0]
    names = _class_columns(first)
    rows = [
        [folder.name, *row]
        for folder, result in zip(folders, results, strict=True)
        for row in _prepared_rows(result, names)
    ]
    print_table(f"{folders[0].parent}: films by fold, split and class", ["fold", "split", *names], rows)
    films = len(first.manifest.rows)
    click.echo(f"{films} films in {first.group_count} groups (patients), split by group; each tests in one fold.")
    for note in first.notes:
        click.echo(f"Note: {note}")
    click.echo(f"Data sets: {folders[0]} to {folders[-1]}")


def _prepared_summary(result: PrepareResult) -> dict[str, Any]:
    from harness.data.prepare import counts_by_split

    manifest, counts = result.manifest, counts_by_split(result.manifest)
    summary = {"manifest": str(manifest.path), "groups": result.group_count, "counts": counts}
    return summary | {"fingerprint": manifest.fingerprint, "notes": result.notes}


def _class_columns(result: PrepareResult) -> list[str]:
    from harness.data.prepare import counts_by_split

    return sorted({name for split in counts_by_split(result.manifest).values() for name in split})


def _prepared_rows(result: PrepareResult, names: Sequence[str]) -> list[list[str]]:
    from harness.data.prepare import counts_by_split

    counts = counts_by_split(result.manifest)
    return [[split, *(str(found.get(name, 0)) for name in names)] for split, found in counts.items()]
