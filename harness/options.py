"""Options and words that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

EPILOG = "Exit codes: 0 done, 1 error with a hint, 2 wrong usage, 3 a verdict failed, 130 interrupted."
path_type = click.Path(path_type=Path)
runs_option = click.option(
    "--runs", "runs_folder", type=path_type, default="runs", show_default=True, help="Folder of the runs."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
