"""`harness data ...`: how data sets are made. Part of the front door: parse, call one stage, say where it went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from harness.options import EPILOG, json_option, path_type


@click.group(epilog=EPILOG)
def data() -> None:
    """Make data sets: films or phantoms -> a manifest with grouped splits."""


@data.command("prepare", epilog="Example: harness data prepare films data/dataset2 --dataset 2")
@click.argument("source", type=path_type)
@click.argument("out", type=path_type)
@click.option("--dataset", type=click.Choice(["1", "2"]), help="Map class folders to the study's data set.")
@click.option("--split", "split", metavar="A/B/C", help="train/validation/test fractions.  [default: 0.7/0.1/0.2]")
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    metavar="K",
    help="Make K data sets OUT/fold-1 to OUT/fold-K for cross-validation.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides the split.")
@click.option("--group-regex", metavar="REGEX", help="Patient = first group of REGEX in the file name.")
@click.option("--groups", "group_table", type=path_type, metavar="CSV", help="Patients from a table: file,group.")
@click.option("--copy", "placement", flag_value="copy", help="Copy the films to OUT/split/class.")
@click.option("--link", "placement", flag_value="link", help="Hard-link the films to OUT/split/class.")
@json_option
def data_prepare(
    source: Path,
    out: Path,
    dataset: str | None,
    split: str | None,
    folds: int | None,
    seed: int,
    group_regex: str | None,
    group_table: Path | None,
    placement: str | None,
    as_json: bool,
) -> None:
    """Make a data set in OUT from the films in SOURCE.

    SOURCE holds one folder per class, or train/, validation/ and test/ that do (test may be flat: unlabelled).
    Films of one patient stay in one split; patients are told from file names unless you say otherwise.
    With --folds every film tests in exactly one fold, and an eighth of a fold's other films validate.
    """
    from harness.console import console_progress, print_prepared, print_prepared_folds
    from harness.core.cases import DATASETS
    from harness.data.folds import prepare_folds
    from harness.data.grouping import grouping_from_options
    from harness.data.prepare import PrepareRequest, prepare
    from harness.data.splitting import fractions_from_text

    request = PrepareRequest(
        source=source,
        out=out,
        dataset=DATASETS[int(dataset)] if dataset else None,
        fractions=fractions_from_text(split) if split else None,
        seed=seed,
        group_of=grouping_from_options(group_regex, group_table),
        placement=placement or "reference",  # type: ignore[arg-type]  # click gives one of its flag values
    )
    if folds is None:
        print_prepared(prepare(request, console_progress()), as_json)
    else:
        print_prepared_folds(prepare_folds(request, folds, console_progress()), as_json)


@data.command("demo", epilog="Example: harness data demo demo/data")
@click.argument("out", type=path_type)
@click.option("--images-per-class", default=240, show_default=True, help="Phantoms of each of the three classes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides what is drawn.")
@json_option
def data_demo(out: Path, images_per_class: int, seed: int, as_json: bool) -> None:
    """Draw synthetic chest phantoms into OUT/phantoms and make both data sets of them in OUT."""
    from harness.console import console_progress, print_prepared
    from harness.data.demo import demo_datasets

    for result in demo_datasets(out, images_per_class=images_per_class, seed=seed, progress=console_progress()):
        print_prepared(result, as_json)
    if not as_json:
        click.echo("These are SYNTHETIC PHANTOMS: nothing measured on them says anything about films.")


@data.command("download", epilog="Example: harness data download dataset1 films/dataset1")
@click.argument("what", type=click.Choice(["dataset1", "dataset2", "weights"]), metavar="dataset1|dataset2|weights")
@click.argument("out", type=path_type)
@json_option
def data_download(what: Any, out: Path, as_json: bool) -> None:
    """Fetch the study's data sets, or its weights of the eight cases, from Google Drive into OUT.

    A download that stopped goes on; what lies in OUT is not fetched again. The films are counted: a data set that has
    other numbers than the study's is an error that says which.
    """
    from harness.console import console_progress
    from harness.data.download import download

    result = download(what, out, console_progress())
    click.echo(json.dumps(result.summary()) if as_json else "\n".join(result.lines()))
