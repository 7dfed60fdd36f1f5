"""Options and words that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

EPILOG = "Exit codes: 0 done, 1 error with a hint, 2 wrong usage, 3 a verdict failed, 130 interrupted."
path_type = click.Path(path_type=Path)
runs_option = click.option(
    "--runs", "runs_folder", type=path_type, default="runs", show_default=True, help="Folder of the runs."
)
data_option = click.option(
    "--data", "data_folder", type=path_type, default="data", show_default=True, help="Data set, or folder of both."
)
label_mode_option = click.option(
    "--label-mode", type=click.Choice(["multiclass", "multilabel"]), default="multiclass", show_default=True
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that change one number of a recipe each; every one is part of the run's identity."""
    options = (
        click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's."),
        click.option("--batch-size", type=click.IntRange(min=2), help="Instead of the recipe's."),
        click.option(
            "--lr", "learning_rate", type=click.FloatRange(min=0, min_open=True), help="Instead of the recipe's."
        ),
        click.option("--patience", type=click.IntRange(min=1), help="Stop after so many epochs without a better one."),
        click.option("--class-weights", type=click.Choice(["none", "balanced"]), help="Instead of the recipe's."),
        click.option(
            "--views",
            type=click.IntRange(min=1),
            help="Augmented views of each film (frozen trunk).  [default: one an epoch]",
        ),
        click.option(
            "--cache-side",
            "cache_side_px",
            type=click.IntRange(min=64),
            metavar="PX",
            help="Shrink larger films to this shorter side first.",
        ),
        click.option("--limit-batches", type=click.IntRange(min=1), help="End every epoch after so many."),
        click.option("--deterministic", is_flag=True, help="Only deterministic algorithms (GPU; the CPU is anyway)."),
    )
    for option in reversed(options):
        command = option(command)
    return command
