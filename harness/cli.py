"""The front door: parse, call one stage, say where the result went. No logic.

Stages are imported inside the commands: `harness --help` loads neither NumPy nor torch nor any stage.
Exit codes: 0 done, 1 error with a hint, 2 wrong usage, 3 a verdict or comparison failed, 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from harness import __version__
from harness.cli_data import data
from harness.core.errors import HarnessError
from harness.options import (
    EPILOG,
    bench_options,
    data_option,
    export_options,
    json_option,
    label_mode_option,
    path_type,
    recipe_options,
    runs_option,
)

_EXIT_VERDICT_FAILED = 3
_EXIT_INTERRUPTED = 130


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Train chest X-ray classifiers, export them to ONNX and TensorRT, prove that the converted model still gives
    the same answers on the test split, and only then time it. Not for clinical use."""


def main() -> None:
    """Run the command line; the one place where errors become words and exit codes."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except HarnessError as error:
        click.echo(f"Error: {error.message}\nHint: {error.hint}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "\nInterrupted. What was finished is kept; run the same command again (without --force) to go on.",
            err=True,
        )
        sys.exit(_EXIT_INTERRUPTED)


cli.add_command(data)


@cli.command(epilog="Example: harness train d2-resnet18-focal --data data/dataset2 --weights random")
@click.argument("cases", nargs=-1, required=True, metavar="CASE...|all|dataset1|dataset2")
@data_option
@runs_option
@click.option("--name", help="Name of the run's directory.  [default: the case]")
@click.option("--recipe", type=click.Choice(["published", "quick", "strong"]), default="published", show_default=True)
@click.option("--loss", type=click.Choice(["ce", "focal"]), help="Instead of the case's own loss.")
@label_mode_option
@click.option("--weights", default="imagenet", show_default=True, help="imagenet, random, or a file for the trunk.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="auto: bf16 where the machine multiplies it.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Decides all that is random.",
)
@click.option("--fold", metavar="K|all", help="Folds that `harness data prepare --folds` made.")
@recipe_options
@click.option("--dry-run", is_flag=True, help="Check everything, time one step, write nothing.")
@click.option("--force", is_flag=True, help="Delete an existing run of that name and train again.")
@json_option
def train(cases: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Train cases; an unfinished run goes on where it stopped, a finished one is left alone.

    A run stores its weights, metrics and reference answers in RUNS/NAME. `all` goes on when a case fails. Under
    `torchrun` the processes share every batch.
    """
    from harness.console import console_progress, print_table
    from harness.core.cases import cases_from_names

    chosen = cases_from_names(cases)  # A misspelt case is told before torch is loaded.
    from harness.core.progress import SILENT
    from train.dry_run import PLAN_COLUMNS
    from train.many import (
        TRAIN_COLUMNS,
        fold_lines,
        options_from_command_line,
        planned,
        requests_for_cases,
        train_many,
    )
    from train.ranks import started_ranks

    train_options = options_from_command_line(options)
    with started_ranks() as ranks:
        if train_options.dry_run and ranks.writes:
            plans = planned(requests_for_cases(chosen, train_options))
            if as_json:
                click.echo(json.dumps([plan.summary() for plan in plans]))
            else:
                print_table("Dry run: nothing was written", PLAN_COLUMNS, [plan.row() for plan in plans])
        if train_options.dry_run:
            return
        progress = console_progress() if ranks.writes else SILENT
        outcomes = train_many(requests_for_cases(chosen, train_options), progress, ranks)
        if not ranks.writes:
            return
    if as_json:
        click.echo(json.dumps([outcome.summary() for outcome in outcomes]))
    else:
        if len(outcomes) == 1 and outcomes[0].text:
            click.echo(outcomes[0].text)
        print_table("Training (test split)", TRAIN_COLUMNS, [outcome.row() for outcome in outcomes])
        for line in fold_lines(outcomes):
            click.echo(line)
    _exit_on_failures(outcomes)


def _exit_on_failures(outcomes: Any, *, verdict_failed: bool = False) -> None:
    """Print every failed row's error and hint; exit with 3 where a verdict failed, else with the largest code."""
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    for error in failed:
        click.echo(f"Error: {error.message}\nHint: {error.hint}", err=True)
    if verdict_failed:
        raise click.exceptions.Exit(_EXIT_VERDICT_FAILED)
    if failed:
        raise click.exceptions.Exit(max(error.exit_code for error in failed))


@cli.command(
    "import", epilog="Example: harness import d1-resnet18-all weights/d1-resnet18-all.pth --data data/dataset1"
)
@click.argument("case", metavar="CASE")
@click.argument("file", type=path_type)
@data_option
@runs_option
@click.option("--name", help="Name of the run's directory.  [default: the case]")
@label_mode_option
@click.option("--force", is_flag=True, help="Delete an existing run of that name and import again.")
@json_option
def import_weights(case: str, file: Path, as_json: bool, **options: Any) -> None:
    """Make a finished run of a state dict from elsewhere (.pth, .pt or .safetensors).

    The file must hold every tensor of the case and no other; nothing in it is executed. Its answers to the data set
    are computed once, and then export, bench and report work on it as on a trained run.
    """
    from harness.console import console_progress
    from harness.core.cases import case_named

    chosen = case_named(case)  # A misspelt case is told before torch is loaded.
    from train.importing import ImportRequest, import_run

    result = import_run(ImportRequest(case=chosen, path=file, **options), console_progress())
    click.echo(json.dumps(result.summary()) if as_json else "\n".join(result.lines()))


@cli.command(epilog="Example: harness export --precision fp32 --precision fp16 --trt")
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@runs_option
@export_options
@click.option("--force", is_flag=True, help="Redo what is up to date.")
@json_option
def export(runs: tuple[str, ...], runs_folder: Path, as_json: bool, **options: Any) -> None:
    """Convert runs (default: all) to ONNX in one or more precisions, and to TensorRT engines, OpenVINO models and a
    Triton model repository where asked for.

    Also makes what `bench` needs: the evaluation set and the golden answers. What is up to date is left alone.
    """
    from export.many import export_many
    from export.request import request_from_options
    from harness.console import console_progress, print_table
    from harness.core.runs import runs_from_names

    request = request_from_options(**options)
    outcomes = export_many(runs_from_names(runs_folder, runs), request, console_progress())
    if as_json:
        click.echo(json.dumps([outcome.summary() for outcome in outcomes]))
    else:
        columns = ["run", "artifact", "status", "size", "seconds", "note"]
        print_table("Export", columns, [row for outcome in outcomes for row in outcome.rows()])
        for line in (line for outcome in outcomes for line in outcome.lines()):
            click.echo(line)
    _exit_on_failures(outcomes)


@cli.command("inspect", epilog="Example: harness inspect runs/d2-resnet18-ce/export/fp32.onnx")
@click.argument("files", nargs=-1, required=True, type=path_type, metavar="FILE...")
@json_option
def inspect_command(files: tuple[Path, ...], as_json: bool) -> None:
    """Tell what a checkpoint, golden, ONNX file, engine or state dict is, and whether it is what it is said to be.

    The file's own bytes, its sidecar and the run it lies in are held against each other; a disagreement is a finding,
    and findings make exit code 1. Nothing in a file is executed, and no GPU is needed.
    """
    from harness.inspection.many import inspect_files

    inspections = inspect_files(files)
    if as_json:
        click.echo(json.dumps([inspection.summary() for inspection in inspections]))
    else:
        click.echo("\n\n".join("\n".join(inspection.lines()) for inspection in inspections))
    _exit_on_failures(inspections)


@cli.command(epilog="Example: harness bench d2-resnet18-ce --backend onnxruntime --batch 1")
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@runs_option
@bench_options
@click.option("--require-pass", is_flag=True, help="Exit with 3 unless every trial, run or not, is PASS.")
@json_option
def bench(runs: tuple[str, ...], runs_folder: Path, as_json: bool, require_pass: bool, **options: Any) -> None:
    """Prove parity on the test split, then time what did not fail.

    Every artifact is compared with the golden answers of its own checkpoint. Eight processes of each are then timed in
    turn with all others, and each must first answer as the one did that was judged. Interrupted, it goes on after the
    last finished set of processes. Exit code 3 where a verdict is FAIL.
    """
    from bench.builds import BUILD_COLUMNS, build_rows, spreads_of_runs
    from bench.many import BenchRequest, bench_many
    from harness.console import console_progress, print_table
    from harness.core.runs import runs_from_names

    chosen = runs_from_names(runs_folder, runs)
    outcome = bench_many(chosen, BenchRequest.from_options(**options), console_progress())
    if as_json:
        click.echo(outcome.json_text())
    else:
        judging = "test split" if options["splits"] == "test" else options["splits"]
        print_table(f"Bench ({judging})", outcome.columns(), outcome.rows())
        spreads = spreads_of_runs(chosen, outcome.results)
        if spreads:
            print_table("Builds", BUILD_COLUMNS, build_rows(spreads))
        for title, columns, rows in outcome.load_tables():
            print_table(title, columns, rows)
        for line in [*outcome.noise(), *outcome.reasons()]:
            click.echo(line)
    # A FAIL is the gravest news and decides the exit code; errors of other trials are printed all the same.
    _exit_on_failures(outcome.failures, verdict_failed=outcome.verdict_failed(require_pass=require_pass))


@cli.command(epilog="Example: harness report --runs demo/runs --pytest-benchmark times.json")
@runs_option
@click.option("--pytest-benchmark", type=path_type, metavar="FILE", help="Also all times as JSON of pytest-benchmark.")
@click.option(
    "--price-per-hour",
    type=click.FloatRange(min=0, min_open=True),
    help="What the machine costs, in any currency: adds the cost of a million images.",
)
@click.option(
    "--images-per-day",
    type=click.FloatRange(min=0, min_open=True),
    help="Your traffic: adds the days after which a build has paid for itself.",
)
@json_option
def report(
    runs_folder: Path,
    pytest_benchmark: Path | None,
    price_per_hour: float | None,
    images_per_day: float | None,
    as_json: bool,
) -> None:
    """Write RUNS/report: report.md, report.json and report.csv from everything measured so far."""
    from bench.report import write_report
    from bench.report_time import Economics
    from harness.core.runs import runs_from_names

    economics = Economics(price_per_hour=price_per_hour, images_per_day=images_per_day)
    paths = write_report(runs_folder, runs_from_names(runs_folder, ()), pytest_benchmark, economics)
    if as_json:
        named = {path.suffix[1:]: str(path) for path in paths[:3]}
        click.echo(json.dumps(named | ({"pytest_benchmark": str(pytest_benchmark)} if pytest_benchmark else {})))
    else:
        for path in paths:
            click.echo(str(path))


@cli.command(
    epilog="Example: harness compare main/runs runs --markdown comparison.md\n\n"
    "Exit codes: 0 no PASS was lost and nothing is too slow, 3 otherwise; 1 and 2 as everywhere."
)
@click.argument("old", type=path_type)
@click.argument("new", type=path_type)
@click.option(
    "--markdown", "markdown_path", type=path_type, metavar="FILE", help="Also as Markdown for a pull request."
)
@click.option(
    "--max-slowdown",
    type=click.FloatRange(min=0),
    metavar="PERCENT",
    help="Exit with 3 where NEW is shown to be slower than OLD by more.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with 3 also where a PASS of OLD was not measured in NEW, or a slowdown is likely but not shown.",
)
@json_option
def compare(
    old: Path, new: Path, markdown_path: Path | None, max_slowdown: float | None, strict: bool, as_json: bool
) -> None:
    """Tell which verdicts changed between OLD and NEW, whether the answers to the same films did, and the times.

    OLD and NEW are each a run directory, a folder of runs (compared by name), or one trial record (.json). Verdicts
    are judged again from the stored answers where golden and evaluation set are there. Two checkpoints on one split
    are compared by McNemar's exact test. A PASS of OLD that is another word or a failure in NEW is lost: exit code 3.
    One that NEW has not measured is told, and makes exit code 3 only with --strict. Times are compared where machine
    and protocol are the same, beside eager PyTorch where that was measured in turn on both sides.
    """
    from bench.compare import compare as compare_sides
    from bench.compare_report import (
        ANSWER_COLUMNS,
        TIME_COLUMNS,
        VERDICT_COLUMNS,
        answer_rows,
        closing_lines,
        detail_lines,
        markdown,
        time_rows,
        verdict_rows,
    )
    from harness.console import print_table
    from harness.core.files import write_text_atomically

    comparison = compare_sides(old, new)
    limit = None if max_slowdown is None else max_slowdown / 100
    if markdown_path is not None:
        write_text_atomically(markdown_path, markdown(comparison, strict=strict, max_slowdown=limit))
    if as_json:
        click.echo(json.dumps(comparison.summary()))
    else:
        print_table(f"Parity: {comparison.headline()}", VERDICT_COLUMNS, verdict_rows(comparison))
        if rows := answer_rows(comparison):
            print_table("The same films, answered by OLD and by NEW", ANSWER_COLUMNS, rows)
        if rows := time_rows(comparison):
            print_table("Time per call, end to end", TIME_COLUMNS, rows)
        for line in [*detail_lines(comparison), *closing_lines(comparison, strict=strict, max_slowdown=limit)]:
            click.echo(line)
    failed = comparison.pass_lost(strict=strict) or bool(comparison.too_slow(limit, strict=strict))
    _exit_on_failures((), verdict_failed=failed)


@cli.command(epilog="Example: harness doctor --json")
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can build and run, and how to add what is missing.

    Every library is really tried, in a process of its own. Exit code 1 only where something fails that all commands
    need.
    """
    from harness.console import console_progress, print_table
    from harness.doctor.examination import COLUMNS, examine

    # Plain, for rich is one of the patients.
    examination = examine(console_progress(plain=True))
    if as_json:
        click.echo(json.dumps(examination.summary()))
    else:
        print_table("Doctor", COLUMNS, examination.rows(), plain=not examination.works("rich"))
        click.echo(examination.closing_line())
    if examination.core_is_broken:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
