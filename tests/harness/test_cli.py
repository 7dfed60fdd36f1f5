"""The front door as a user meets it: quick to open, few options, documented exit codes, deaf to the folder it is in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from harness.cli import cli

# What a release promises. An option more or less is a decision, not an accident: change it here too.
_OPTIONS: dict[str, set[str]] = {
    "data prepare": {
        "--dataset",
        "--split",
        "--folds",
        "--seed",
        "--group-regex",
        "--groups",
        "--copy",
        "--link",
        "--json",
    },
    "data demo": {"--images-per-class", "--seed", "--json"},
    "data download": {"--json"},
    "train": {
        "--data",
        "--runs",
        "--name",
        "--recipe",
        "--loss",
        "--label-mode",
        "--weights",
        "--precision",
        "--seed",
        "--fold",
        "--epochs",
        "--batch-size",
        "--lr",
        "--patience",
        "--class-weights",
        "--views",
        "--cache-side",
        "--limit-batches",
        "--deterministic",
        "--dry-run",
        "--force",
        "--json",
    },
    "import": {"--data", "--runs", "--name", "--label-mode", "--force", "--json"},
    "inspect": {"--json"},
    "export": {
        "--runs",
        "--precision",
        "--uint8-input",
        "--probabilities",
        "--calibration",
        "--calibration-method",
        "--int8",
        "--openvino",
        "--triton",
        "--builds",
        "--trt",
        "--flavour",
        "--engine-batch",
        "--target",
        "--workspace",
        "--tf32",
        "--timing-cache",
        "--hardware-compatibility",
        "--version-compatible",
        "--force",
        "--json",
    },
    "bench": {
        "--runs",
        "--backend",
        "--batch",
        "--threads",
        "--margin",
        "--splits",
        "--require-pass",
        "--quick",
        "--strict",
        "--untimed",
        "--artifact",
        "--scenario",
        "--latency-bound",
        "--force",
        "--json",
    },
    "report": {"--runs", "--pytest-benchmark", "--price-per-hour", "--images-per-day", "--json"},
    "compare": {"--markdown", "--strict", "--max-slowdown", "--json"},
    "doctor": {"--json"},
}


def _commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found |= _commands(command, f"{name} ") if isinstance(command, click.Group) else {prefix + name: command}
    return found


def _harness(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the installed command in `folder`."""
    program = Path(sys.executable).with_name("harness")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(program), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_options_of_every_command_are_the_frozen_ones() -> None:
    found = {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
        for name, command in _commands(cli).items()
    }
    assert found == _OPTIONS


@pytest.mark.parametrize("name", ["", "data", *_OPTIONS])
def test_every_command_explains_itself(name: str) -> None:
    from click.testing import CliRunner

    shown = CliRunner().invoke(cli, [*name.split(), "--help"], prog_name="harness")

    assert shown.exit_code == 0
    assert "Exit codes" in shown.output or "Example: harness" in shown.output
    for option in _OPTIONS.get(name, set()):
        assert option in shown.output


def test_help_and_version_run_as_installed() -> None:
    assert "harness, version " in _harness("--version").stdout
    shown = _harness("-h")
    assert shown.returncode == 0
    assert all(name.split()[0] in shown.stdout for name in _OPTIONS)


def test_opening_the_front_door_loads_no_library_and_no_stage() -> None:
    program = "import sys, harness.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    loaded = set(done.stdout.split())
    assert "click" in loaded
    assert not loaded & {"numpy", "torch", "torchvision", "onnx", "onnxruntime", "openvino", "PIL", "pydantic", "scipy"}
    assert not loaded & {"train", "export", "bench"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("data", "prepare", "nowhere", "out"), 1, "Error: nowhere is not a folder."),
        (("train", "d2-resnet18-ce", "--data", "nowhere", "--weights", "random"), 1, "harness data prepare"),
        (("train", "d2-resnet18"), 2, "Did you mean d2-resnet18"),
        (("train",), 2, "Missing argument"),
        (("train", "all", "--colour", "red"), 2, "No such option"),
        (("train", "all", "--epochs", "0"), 2, "--epochs"),
        (("import", "d2-resnet18", "w.pth"), 2, "Did you mean d2-resnet18"),
        (("import", "d2-resnet18-ce"), 2, "Missing argument 'FILE'"),
        (("import", "d2-resnet18-ce", "w.pth"), 1, "There is no weights file w.pth"),
        (("paint",), 2, "No such command"),
        (("export",), 2, "There are no runs in runs"),
        (("export", "--trt", "--workspace", "99999999999999"), 2, "--workspace"),
        (("export", "--trt", "--engine-batch", "1/8/100000000000"), 2, "No GPU has the memory for batches of"),
        (("export", "--target", "sm90"), 2, "--target: of use for an engine only"),
        (("export", "--flavour", "rtx", "--tf32"), 2, "--flavour, --tf32: of use for an engine only"),
        (("export", "--timing-cache", "timings"), 2, "Add `--trt`"),
        (("export", "--precision", "fp16", "--int8", "auto"), 2, "--int8: of use for int8 only"),
        (("export", "--trt", "--calibration", "64"), 2, "Add `--precision int8`"),
        (("bench", "somewhere"), 2, "no run named somewhere"),
        (("report",), 2, "There are no runs"),
        (("compare", "a"), 2, "Missing argument 'NEW'"),
        (("compare", "a", "b"), 1, "Error: a does not exist."),
        (("inspect",), 2, "Missing argument 'FILE...'"),
        (("inspect", "fp32.onnx"), 1, "fp32.onnx does not exist"),
        (("data", "prepare", ".", "out", "--split", "1/1/1"), 2, "three positive fractions"),
        (("data", "prepare", ".", "out", "--group-regex", "("), 2, "not a regular expression"),
        (("data", "prepare", ".", "out", "--dataset", "3"), 2, "--dataset"),
        (("data", "prepare", ".", "out", "--folds", "1"), 2, "--folds"),
        (("data", "prepare", ".", "out", "--folds", "3", "--split", "0.7/0.1/0.2"), 2, "--folds and --split exclude"),
        (("data", "prepare", ".", "out", "--folds", "3", "--copy"), 2, "--folds and --copy exclude"),
        (("data", "prepare", ".", "out", "--folds", "3"), 2, "Give a folder outside SOURCE."),
        (("data", "download", "dataset3", "out"), 2, "'dataset3' is not one of"),
        (("data", "download", "weights"), 2, "Missing argument 'OUT'"),
        (("data", "demo", "out", "--images-per-class", "2"), 2, "--images-per-class"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_a_user_gets_wrong_is_told_in_words_with_its_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = _harness(*arguments, folder=tmp_path)

    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stdout
    assert list(tmp_path.glob("out*")) == []


def test_a_negative_seed_is_wrong_usage(tmp_path: Path, write_folders) -> None:
    write_folders({"a": 10, "b": 10})

    done = _harness("data", "prepare", "films", "out", "--seed", "-1", folder=tmp_path)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_preparing_prints_a_table_for_people_and_json_for_machines(tmp_path: Path, write_folders) -> None:
    write_folders({"covid": 10, "normal": 10})

    table = _harness("data", "prepare", "films", "out", folder=tmp_path)
    machine = _harness("data", "prepare", "films", "out", "--json", folder=tmp_path)

    assert table.returncode == machine.returncode == 0
    assert "20 films in 20 groups (patients), split by group." in table.stdout
    summary = json.loads(machine.stdout)
    assert summary["counts"]["train"] == {"covid": 7, "normal": 7}
    assert summary["manifest"] == str(Path("out", "manifest.csv"))


def test_preparing_folds_shows_every_fold_to_people_and_machines(tmp_path: Path, write_folders) -> None:
    write_folders({"covid": 20, "normal": 20})

    table = _harness("data", "prepare", "films", "out", "--folds", "2", folder=tmp_path)
    machine = _harness("data", "prepare", "films", "out", "--folds", "2", "--json", folder=tmp_path)

    assert table.returncode == machine.returncode == 0, table.stderr + machine.stderr
    rows = [line.split() for line in table.stdout.splitlines() if line.startswith("fold-")]
    assert [row[:2] for row in rows] == [
        [fold, split] for fold in ("fold-1", "fold-2") for split in ("train", "validation", "test")
    ]
    assert [row[2:] for row in rows if row[1] == "test"] == [["10", "10"]] * 2
    assert "40 films in 40 groups (patients), split by group; each tests in one fold." in table.stdout
    summaries = json.loads(machine.stdout)["folds"]
    assert [summary["manifest"] for summary in summaries] == [
        str(Path("out", fold, "manifest.csv")) for fold in ("fold-1", "fold-2")
    ]
    assert all(sum(counts["covid"] for counts in summary["counts"].values()) == 20 for summary in summaries)


def test_the_users_own_files_named_like_our_packages_change_nothing(tmp_path: Path) -> None:
    for name in ("train.py", "export.py", "harness.py", "bench/__init__.py", "bench/worker.py", "click.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('the wrong file was imported')", encoding="utf-8")

    help_text = _harness("train", "--help", folder=tmp_path)
    trained = _harness("train", "d2-resnet18-ce", "--data", "nowhere", folder=tmp_path)
    worker = subprocess.run(
        [sys.executable, "-P", "-m", "bench.worker"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert help_text.returncode == 0
    assert trained.returncode == 1
    assert "d2-resnet18-ce needs dataset-2" in trained.stderr
    assert "wrong file" not in help_text.stderr + trained.stderr + worker.stderr + worker.stdout
    assert worker.returncode == 0, worker.stderr
