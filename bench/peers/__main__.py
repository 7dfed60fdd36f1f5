"""The command: every comparison in turn, the table, and JSON in the last line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from bench.peers.alternating import Extent
from bench.peers.benchmark_application import latency_lines, throughput_lines
from bench.peers.load_generation import load_generation_lines
from bench.peers.runner import runner_lines
from bench.peers.self_comparison import Kind, SelfComparison, Series
from bench.peers.subject import Subject, made_subject
from bench.peers.telling import Line, interval_words, last_line, table
from bench.timing import FULL, QUICK
from harness.core.errors import HarnessError
from harness.core.machine import core_count

_DIFFERENT = ("faster", "slower")


_FULL_EXTENT = Extent(rounds=60, calls=25, queued_calls=60, load_rounds=40, load_calls=100, wait=True)
_QUICK_EXTENT = Extent(rounds=2, calls=5, queued_calls=8, load_rounds=2, load_calls=20, wait=False)
# Two sets of processes, so that there is an interval at all.
_QUICK_PLAN = replace(QUICK, instances=2, rounds=2, warm_up_s=0.1)


@click.command()
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=Path("demo/peers"), show_default=True)
@click.option("--quick", is_flag=True, help="A few blocks: shows that everything runs, measures nothing.")
@click.option(
    "--aa", "same_count", type=click.IntRange(0), default=None, help="Comparisons with itself.  [default: 40]"
)
@click.option("--slowdowns", type=click.IntRange(0), default=None, help="Comparisons with 3 % slower.  [default: 8]")
def main(work: Path, quick: bool, same_count: int | None, slowdowns: int | None) -> None:
    """Measure our clock beside other people's, and beside itself."""
    counts: dict[Kind, int] = {
        "same": _count(same_count, 40, quick=quick),
        "slowed": _count(slowdowns, 8, quick=quick),
    }
    try:
        _measure(work, counts, quick=quick)
    except HarnessError as error:
        raise click.ClickException(f"{error.message}\n{error.hint}") from error


def _count(given: int | None, usual: int, *, quick: bool) -> int:
    return given if given is not None else 1 if quick else usual


def _measure(work: Path, counts: Mapping[Kind, int], *, quick: bool) -> None:
    extent = _QUICK_EXTENT if quick else _FULL_EXTENT
    subject = made_subject(work, core_count())
    series = Series(
        subject=subject,
        plan=_QUICK_PLAN if quick else FULL,
        path=work / "self-comparisons.jsonl",
        most_attempts=1 if quick else 3,
    )
    series.finished()  # A file that is none of ours is told now, and not after the peers.
    lines = _peers(subject, extent)
    same, slowed = (series.compared(kind, count, _say) for kind, count in counts.items())
    if not any(each.contended for each in (*same, *slowed)):
        series.archive()
    click.echo(table(lines))
    found = _counts(same, slowed)
    click.echo(
        f"A/A: {found['aa_different']} of {found['aa_total']} said to differ; 3 % slower: "
        f"{found['slowdowns_found']} of {found['slowdowns_total']} found; left out as contended: "
        f"{found['contended_comparisons']}, measured again for it: {found['repeated_comparisons']}"
    )
    click.echo(last_line(lines, found))


def _peers(subject: Subject, extent: Extent) -> list[Line]:
    """Measure what is installed, and say what is not."""
    lines: list[Line] = []
    for name, measured in (
        ("benchmark_app latency", latency_lines),
        ("benchmark_app throughput", throughput_lines),
        ("LoadGen", load_generation_lines),
        ("Polygraphy", runner_lines),
    ):
        found = measured(subject, extent)
        for each in found:
            _say(f"{each.name}: ours/theirs {interval_words(each.ratio)}")
        if not found:
            _say(f"{name}: not installed, left out; `pip install -e '.[peers]' -c constraints.txt` adds it")
        lines += found
    return lines


def _counts(same: list[SelfComparison], slowed: list[SelfComparison]) -> dict[str, int]:
    """Count what may be counted: of a contended session the bench itself says nothing."""
    quiet_same = [each for each in same if not each.contended]
    quiet_slowed = [each for each in slowed if not each.contended]
    return {
        "aa_different": sum(each.word in _DIFFERENT for each in quiet_same),
        "aa_total": len(quiet_same),
        "slowdowns_found": sum(each.word == "slower" for each in quiet_slowed),
        "slowdowns_total": len(quiet_slowed),
        "contended_comparisons": len(same) + len(slowed) - len(quiet_same) - len(quiet_slowed),
        "repeated_comparisons": sum(each.attempts - 1 for each in (*same, *slowed)),
    }


def _say(message: str) -> None:
    click.echo(message, err=True)


if __name__ == "__main__":
    main()
