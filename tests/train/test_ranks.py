"""Several processes under torchrun train what one would, write once, and may be another number when a run goes on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from harness.core.lock import run_lock
from train.ranks import ONE_PROCESS, Ranks, synchronised

_LIMIT_S = 240


def _command(processes: int, *arguments: str | Path) -> list[str | Path]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes else []
    return [sys.executable, *launcher, "-m", "harness.cli", "train", *arguments]


def _arguments(case: str, data: Path, runs: Path, *, epochs: int) -> list[str | Path]:
    options = f"--recipe quick --weights random --precision fp32 --batch-size 12 --epochs {epochs}".split()
    return [case, "--data", data, "--runs", runs, *options]


def _trained(case: str, data: Path, runs: Path, *, processes: int, epochs: int = 2) -> Path:
    command = _command(processes, *_arguments(case, data, runs, epochs=epochs))
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Training (test split)") == 1, "one process speaks"
    return runs / case


def _assert_nearly_same_run(folder: Path, other: Path) -> None:
    left, right = load_file(folder / "checkpoint.safetensors"), load_file(other / "checkpoint.safetensors")
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-3, atol=1e-5)
    ours, theirs = (json.loads((each / "evaluation.json").read_text())["ours"] for each in (folder, other))
    assert {split: metrics["confusion"] for split, metrics in ours.items()} == {
        split: metrics["confusion"] for split, metrics in theirs.items()
    }


def test_two_processes_train_a_frozen_case_to_the_weights_of_one(demo_data: Path, tmp_path: Path) -> None:
    one = _trained("d1-resnet18-fc", demo_data, tmp_path / "one", processes=0)
    two = _trained("d1-resnet18-fc", demo_data, tmp_path / "two", processes=2)
    _assert_nearly_same_run(two, one)
    rows = [(each / "metrics.csv").read_text().splitlines()[1:] for each in (one, two)]
    for ours, theirs in zip(*rows, strict=True):  # Nothing counted twice, nothing left out.
        figures = [[float(value) for value in row.split(",")[:6]] for row in (ours, theirs)]
        assert figures[0] == pytest.approx(figures[1], rel=1e-3, abs=1e-5)
    assert not list(two.rglob("*.tmp"))


@pytest.mark.slow
def test_two_processes_train_all_of_vgg16_to_the_weights_of_one(demo_data: Path, tmp_path: Path) -> None:
    one = _trained("d1-vgg16-all", demo_data, tmp_path / "one", processes=0)
    two = _trained("d1-vgg16-all", demo_data, tmp_path / "two", processes=2)
    _assert_nearly_same_run(two, one)


def test_batch_statistics_on_the_cpu_are_said_to_be_of_each_process(demo_data: Path, tmp_path: Path) -> None:
    two = _trained("d2-resnet18-ce", demo_data, tmp_path, processes=2, epochs=1)
    details = json.loads((two / "checkpoint.safetensors.json").read_text())["details"]
    assert details["processes"] == 2
    assert "each process by itself" in details["batch_norm"]
    # Validated was what is kept: the first process's statistics on every process.
    (row,) = (two / "metrics.csv").read_text().splitlines()[1:]
    ours = json.loads((two / "evaluation.json").read_text())["ours"]["validation"]
    assert [float(value) for value in row.split(",")[3:5]] == pytest.approx([ours["accuracy"], ours["macro_f1"]])


def test_a_run_of_two_processes_that_was_killed_goes_on_with_one(demo_data: Path, tmp_path: Path) -> None:
    whole = _trained("d1-resnet18-fc", demo_data, tmp_path / "whole", processes=0, epochs=3)
    folder = tmp_path / "cut" / "d1-resnet18-fc"
    command = _command(2, *_arguments("d1-resnet18-fc", demo_data, tmp_path / "cut", epochs=3))
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        deadline_s = time.monotonic() + _LIMIT_S
        while not (folder / "last" / "state.json").is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=True)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "checkpoint.safetensors").exists()
    _assert_nearly_same_run(_trained("d1-resnet18-fc", demo_data, tmp_path / "cut", processes=0, epochs=3), whole)


def test_where_the_first_process_fails_all_end_and_its_message_is_shown(demo_data: Path, tmp_path: Path) -> None:
    # Only the first process looks at the films' hashes.
    data = tmp_path / "data"
    shutil.copytree(demo_data, data)
    sidecar = data / "dataset1" / "manifest.csv.json"
    content = json.loads(sidecar.read_text())
    content["details"]["root"] = str(data / "phantoms")
    sidecar.write_text(json.dumps(content))
    film = next((data / "phantoms" / "covid").glob("*.png"))
    film.write_bytes(film.read_bytes() + b"0")
    arguments = _arguments("d1-resnet18-fc", data, tmp_path / "runs", epochs=1)
    done = subprocess.run(_command(2, *arguments), capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    assert done.returncode != 0
    assert f"{film.name}: changed since" in done.stderr
    assert not (tmp_path / "runs" / "d1-resnet18-fc" / "run.json").exists()


def test_a_run_that_the_first_process_cannot_lock_ends_all_before_the_next_case(
    demo_data: Path, tmp_path: Path
) -> None:
    arguments = _arguments("d1-resnet18-fc", demo_data, tmp_path, epochs=1)
    with run_lock(tmp_path / "d1-resnet18-fc"):
        command = _command(2, *arguments[:1], "d2-resnet18-ce", *arguments[1:])
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    assert done.returncode != 0
    assert "is in use by process" in done.stderr
    assert not (tmp_path / "d2-resnet18-ce").exists()


def test_every_row_is_somebodys_and_nobody_goes_without() -> None:
    rows = np.arange(5)
    for count in (1, 2, 5, 7):
        parts = [Ranks(rank=rank, count=count).part_of(rows) for rank in range(count)]
        real = [part for part in parts if part.weight]
        assert np.concatenate([part.rows for part in real]).tolist() == rows.tolist()
        assert sum(part.weight for part in parts) == pytest.approx(1.0)
        assert all(len(part.rows) for part in parts)


def test_alone_nothing_is_exchanged_and_nothing_is_wrapped() -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert (ONE_PROCESS.gathered(values, np.array([2, 0, 1]), 3) == values[[1, 2, 0]]).all()
    assert ONE_PROCESS.sum_of(2.5) == 2.5
    assert ONE_PROCESS.after_first(lambda: "made") == "made"
    module = nn.Linear(1, 1)
    assert ONE_PROCESS.parallel(module) is module
    assert synchronised(nn.BatchNorm2d(1), ONE_PROCESS)[1] == "one process"


def test_a_network_without_batch_statistics_needs_none_synchronised() -> None:
    assert synchronised(nn.Linear(1, 1), Ranks(rank=0, count=2))[1] == "no batch statistics"
