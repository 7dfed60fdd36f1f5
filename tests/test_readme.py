"""The README is kept true: its commands parse, its tree and its links exist, its first lines are the two commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from harness.cli import cli

_ROOT = Path(__file__).resolve().parent.parent
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_COMMANDS = re.findall(r"^    (harness .*)$", _README, flags=re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in _COMMANDS if not line.startswith("harness/")])
def test_every_command_of_the_readme_parses(line: str) -> None:
    command: click.Command = cli
    arguments = shlex.split(line, comments=True)[1:]
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    command.make_context(line, arguments)


def test_every_command_has_an_example_in_the_readme() -> None:
    shown = {" ".join(line.split()[1:3]) for line in _COMMANDS}
    for name, command in cli.commands.items():
        names = [f"{name} {inner}" for inner in command.commands] if isinstance(command, click.Group) else [name]
        assert all(any(each.startswith(wanted) for each in shown) for wanted in names), name


def test_the_tree_and_the_links_of_the_readme_exist() -> None:
    folders = re.findall(r"^    ([a-z/.]+)  +\S", _README, flags=re.MULTILINE)
    links = re.findall(r"\]\(([^)#]+)\)", _README)
    assert len(folders) > 6
    assert len(links) > 2
    assert [path for path in (*folders, *links) if not (_ROOT / path).exists()] == []


def test_the_readme_begins_with_the_two_commands() -> None:
    lines = [line.strip() for line in _README.splitlines() if line.strip()]
    assert lines[1].startswith("make demo")
    assert lines[2].startswith("make test")
