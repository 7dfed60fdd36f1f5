"""`harness data ...`: how data sets are made. Part of the front door: parse, call one stage, say where it went."""

from __future__ import annotations

from pathlib import Path

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
    seed: int,
    group_regex: str | None,
    group_table: Path | None,
    placement: str | None,
    as_json: bool,
) -> None:
    """Make a data set in OUT from the films in SOURCE.

    SOURCE holds one folder per class, or train/, validation/ and test/ that do (test may be flat: unlabelled).
    Films of one patient stay in one split; patients are told from file names unless you say otherwise.
    """
    from harness.console import console_progress, print_prepared
    from harness.core.cases import DATASETS
    from harness.data.grouping import grouping_from_options
    from harness.data.prepare import PrepareRequest, prepare
    from harness.data.splitting import fractions_from_text

    result = prepare(
        PrepareRequest(
            source=source,
            out=out,
            dataset=DATASETS[int(dataset)] if dataset else None,
            fractions=fractions_from_text(split) if split else None,
            seed=seed,
            group_of=grouping_from_options(group_regex, group_table),
            placement=placement or "reference",  # type: ignore[arg-type]  # click gives one of its flag values
        ),
        console_progress(),
    )
    print_prepared(result, as_json)


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
