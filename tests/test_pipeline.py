"""The whole job through the console script, in a folder whose names shadow ours; then damage and interruptions."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest

_HARNESS = str(Path(sys.executable).with_name("harness"))
_RECIPE = ["--recipe", "quick", "--weights", "random", "--epochs", "1", "--batch-size", "12"]
_TRAIN = ["train", "d2-resnet18-ce", "--data", "data", *_RECIPE, "--name", "d2"]
_EXPORT = ["export", *(["--trt", "--flavour", "rtx"] if util.find_spec("tensorrt_rtx") else [])]
_BENCH = ["bench", "--quick", "--batch", "1", "--threads", "1"]
_LIMIT_S = 120


def _run(folder: Path, *arguments: str, runs: str = "runs") -> subprocess.CompletedProcess[str]:
    command = [_HARNESS, *arguments, *(["--runs", runs] if arguments[0] != "data" else [])]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT_S, check=False)


def _hashes(folder: Path, *patterns: str) -> dict[str, str]:
    paths = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, subprocess.CompletedProcess[str]]]:
    """A folder with a user's own train.py, json.py and packages of our names, and the whole job run in it."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("train.py", "json.py", "numpy.py", "export.py"):
        (folder / name).write_text("raise SystemExit('the module of the user was imported')\n")
    for name in ("bench", "harness"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('the package of the user was imported')\n")
    steps = {
        "data": ["data", "demo", "data", "--images-per-class", "20"],
        "train": _TRAIN,
        "export": _EXPORT,
        "bench": _BENCH,
        "report": ["report"],
    }
    return folder, {name: _run(folder, *arguments) for name, arguments in steps.items()}


@pytest.mark.parametrize("step", ["data", "train", "export", "bench", "report"])
def test_every_step_of_the_job_succeeds_where_the_users_files_shadow_our_names(
    hostile: tuple[Path, dict[str, subprocess.CompletedProcess[str]]], step: str
) -> None:
    done = hostile[1][step]
    assert done.returncode == 0, done.stderr
    assert "imported" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_report_holds_every_backend_and_nothing_failed(hostile: tuple[Path, Any]) -> None:
    with (hostile[0] / "runs" / "report" / "report.csv").open(newline="") as stream:
        rows = {(row["variant"], row["backend"]): row for row in csv.DictReader(stream)}
    assert {("eager", "pytorch"), ("fp32", "onnxruntime")} <= set(rows)
    for (_, backend), row in rows.items():
        if backend == "tensorrt":
            assert row["status"] in {"unavailable", "measured"}
        else:
            assert row["status"] == "measured"
            assert row["verdict"] in {"PASS", "INCONCLUSIVE", "NO VERDICT"}
            assert float(row["agreement"]) == 1.0


@pytest.fixture
def copied(hostile: tuple[Path, Any], tmp_path: Path) -> Path:
    shutil.copytree(hostile[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_a_damaged_onnx_file_fails_with_exit_code_3_and_export_mends_it(copied: Path) -> None:
    path = copied / "runs" / "d2" / "export" / "fp32.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    done = _run(copied, *_BENCH, "--backend", "onnxruntime", "--json")
    assert done.returncode == 3, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["verdict"]["word"], result["verdict"]["step"]) == ("FAIL", "contract")
    assert result["timing"] is None
    shutil.copytree(copied / "runs" / "d2", copied / "runs" / "bare", ignore=shutil.ignore_patterns("export"))
    beside_an_error = _run(copied, *_BENCH, "--backend", "onnxruntime")
    assert beside_an_error.returncode == 3, "a FAIL decides the exit code, whatever else went wrong"
    assert "bare has nothing for onnxruntime" in beside_an_error.stderr
    shutil.rmtree(copied / "runs" / "bare")
    assert _run(copied, "export").returncode == 0
    assert _run(copied, *_BENCH, "--backend", "onnxruntime").returncode == 0


def test_require_pass_makes_anything_but_pass_exit_code_3(copied: Path) -> None:
    assert _run(copied, *_BENCH, "--backend", "onnxruntime", "--require-pass").returncode == 3


@pytest.mark.skipif(bool(shutil.which("nvidia-smi")), reason="a GPU would run the engine")
@pytest.mark.skipif(util.find_spec("tensorrt_rtx") is None, reason="no engine was built")
def test_a_backend_that_was_asked_for_and_is_not_there_is_an_error_every_time(copied: Path) -> None:
    codes = [_run(copied, *_BENCH, "--backend", "tensorrt").returncode for _ in range(2)]
    assert codes == [1, 1]


def _interrupted(folder: Path, arguments: list[str], ready: Callable[[], bool]) -> tuple[int, str]:
    """Start a command in its own process group and send SIGINT to the group, as a terminal does on Ctrl-C."""
    with subprocess.Popen(
        [_HARNESS, *arguments, "--runs", "runs"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline_s = time.monotonic() + _LIMIT_S
        while not ready():
            assert process.poll() is None, f"ended before it could be interrupted: {process.communicate()}"
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=_LIMIT_S)
        _assert_group_ends(process.pid)
    return process.returncode, said


def _assert_group_ends(group_id: int) -> None:
    """No worker is left behind. What a killed one had started (an `ldconfig`, say) may need a moment to end."""
    deadline_s = time.monotonic() + 5
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(group_id, 0)
            assert time.monotonic() < deadline_s, "a process of the group is left"
            time.sleep(0.05)


def _assert_interrupted(code: int, said: str) -> None:
    assert code == 130, said
    assert "Interrupted" in said
    assert "Traceback" not in said


def test_ctrl_c_in_training_ends_with_130_and_the_next_command_completes(copied: Path) -> None:
    kept = _hashes(copied, "runs/d2/**/*.*")
    arguments = [*_TRAIN[:-1], "other"]
    arguments[arguments.index("--epochs") + 1] = "3"
    state = copied / "runs" / "other" / "last" / "state.json"
    _assert_interrupted(*_interrupted(copied, arguments, state.is_file))
    assert _hashes(copied, "runs/d2/**/*.*") == kept
    assert not (copied / "runs" / "other" / "checkpoint.safetensors").exists()
    done = _run(copied, *arguments)
    assert done.returncode == 0, done.stderr
    assert "going on after epoch" in done.stderr


def test_ctrl_c_in_export_ends_with_130_keeps_what_was_there_and_the_next_command_completes(copied: Path) -> None:
    kept = _hashes(copied, "runs/d2/*", "runs/d2/export/*.onnx")
    shutil.rmtree(copied / "runs" / "evaluation-sets")  # Made first, so its folder tells that export has begun.
    begun = copied / "runs" / "evaluation-sets"
    _assert_interrupted(*_interrupted(copied, ["export", "--force"], lambda: any(begun.glob("*/rows.csv.json"))))
    assert _hashes(copied, "runs/d2/*", "runs/d2/export/*.onnx") == kept
    assert _run(copied, "export", "--force").returncode == 0
    assert _hashes(copied, "runs/d2/export/*.onnx").items() <= kept.items()


def test_ctrl_c_in_bench_ends_with_130_leaves_no_worker_and_the_next_command_completes(copied: Path) -> None:
    bench = copied / "runs" / "d2" / "bench"
    shutil.rmtree(bench)
    kept = _hashes(copied, "runs/d2/*", "runs/d2/export/*")
    _assert_interrupted(*_interrupted(copied, _BENCH, lambda: any(bench.glob("fp32.onnxruntime*.npz"))))
    assert _hashes(copied, "runs/d2/*", "runs/d2/export/*") == kept
    done = _run(copied, *_BENCH, "--backend", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert len(list(bench.glob("*.onnxruntime.*.json"))) == 1
