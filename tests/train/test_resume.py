"""A run that was stopped goes on to the same bytes as one that was not."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.core.cases import case_named
from harness.core.errors import RunError
from harness.core.progress import Task
from train.many import train_many
from train.recipes import recipe_for_case
from train.request import TrainRequest
from train.run import train_run

_EPOCHS = 4


class InterruptingProgress:
    """Raises KeyboardInterrupt at a certain call of `advance` within a task."""

    def __init__(self, description: str, at_advance: int) -> None:
        self._description = description
        self._left = at_advance
        self.said: list[str] = []

    @contextmanager
    def task(self, description: str, *, total: int | None) -> Iterator[Task]:
        progress = self

        class Counting:
            def advance(self, amount: int = 1, *, note: str = "") -> None:
                if progress._description in description:
                    progress._left -= 1
                    if progress._left == 0:
                        raise KeyboardInterrupt

        yield Counting()

    def say(self, message: str) -> None:
        self.said.append(message)


def _listener() -> InterruptingProgress:
    return InterruptingProgress("no such task", 0)


def _train(request: TrainRequest) -> Path:
    assert train_run(request, _listener()).trained
    return request.runs_folder / request.case.name


def _interrupt(request: TrainRequest, description: str, at_advance: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train_run(request, InterruptingProgress(description, at_advance))
    return request.runs_folder / request.case.name


def _history(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        return [
            {key: value for key, value in row.items() if key not in {"duration_s", "load_share"}}
            for row in csv.DictReader(stream)
        ]


def _assert_same_run(folder: Path, other: Path) -> None:
    for name in ("checkpoint.safetensors", "checkpoint-last.safetensors", "checkpoint-best.safetensors"):
        assert (folder / name).is_file() == (other / name).is_file(), name
        if (folder / name).is_file():
            assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    assert _history(folder) == _history(other)
    assert not (folder / "last").exists()


@pytest.fixture(scope="module")
def undisturbed(make_request: Callable[..., TrainRequest], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(make_request(tmp_path_factory.mktemp("undisturbed"), epochs=_EPOCHS))


@pytest.mark.parametrize(("epoch", "at_advance"), [(1, 2), (2, 2), (4, 3)])
def test_a_run_interrupted_within_an_epoch_continues_to_the_same_bytes(
    make_request: Callable[..., TrainRequest], undisturbed: Path, tmp_path: Path, epoch: int, at_advance: int
) -> None:
    request = make_request(tmp_path, epochs=_EPOCHS)
    folder = _interrupt(request, f"epoch {epoch}/", at_advance)
    assert (len(_history(folder)) if epoch > 1 else 0) == epoch - 1
    listener = _listener()
    assert train_run(request, listener).trained
    assert any(f"after epoch {epoch - 1}" in message for message in listener.said) is (epoch > 1)
    _assert_same_run(folder, undisturbed)


def test_a_run_interrupted_after_training_while_its_reference_is_computed_continues_to_the_same_bytes(
    make_request: Callable[..., TrainRequest], undisturbed: Path, tmp_path: Path
) -> None:
    request = make_request(tmp_path, epochs=_EPOCHS)
    folder = _interrupt(request, "Reference answers", 2)
    assert not (folder / "evaluation.json").exists()
    _train(request)
    _assert_same_run(folder, undisturbed)
    assert (folder / "evaluation.json").read_bytes() == (undisturbed / "evaluation.json").read_bytes()


def test_an_augmented_run_of_dataset_1_continues_to_the_same_bytes(
    make_request: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    case = case_named("d1-resnet18-fc")
    recipe = recipe_for_case("published", case, epochs=3, batch_size=16, resize_px=73, crop_px=64)
    assert recipe.augmentation == "study"
    whole = _train(make_request(tmp_path / "whole", case=case.name, recipe=recipe))
    request = make_request(tmp_path / "cut", case=case.name, recipe=recipe)
    cut = _interrupt(request, "epoch 2/", 2)
    _train(request)
    _assert_same_run(cut, whole)


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def test_a_training_killed_three_times_ends_in_the_same_bytes(
    demo_data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    program = Path(sys.executable).with_name("harness")
    options = f"--recipe quick --weights random --precision fp32 --epochs {_EPOCHS} --batch-size 12".split()
    command = [program, "train", "d2-resnet18-ce", "--data", demo_data, "--runs", tmp_path, *options]
    folder = tmp_path / "d2-resnet18-ce"
    moments: list[Callable[[], bool]] = [
        lambda: (folder / "run.json").is_file(),
        lambda: (folder / "last" / "state.json").is_file(),
        lambda: any((folder / "last").glob("*weights-003*")),
    ]
    for moment in moments:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            _wait_for(moment, process)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    _assert_same_run(folder, undisturbed)
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.slow
def test_a_training_killed_at_random_moments_again_and_again_ends_in_the_same_bytes(
    demo_data: Path, make_request: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    """At least 50 kills, with an optimiser, an average and a cache that all have state: the recipe `strong`."""
    epochs, wanted_kills = 6, 50
    program = Path(sys.executable).with_name("harness")
    options = f"--recipe strong --weights random --precision fp32 --batch-size 12 --epochs {epochs}".split()
    command = [program, "train", "d2-resnet18-ce", "--data", demo_data, *options]
    subprocess.run([*command, "--runs", tmp_path / "whole"], check=True, capture_output=True, timeout=600)
    moments = random.Random(0)
    kills = rounds = 0
    while kills < wanted_kills:
        rounds += 1
        runs = tmp_path / f"cut-{rounds}"
        folder = runs / "d2-resnet18-ce"
        finished_epochs = 0
        while not (folder / "evaluation.json").is_file():
            with subprocess.Popen(
                [*command, "--runs", runs], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process:
                try:
                    process.wait(timeout=moments.uniform(2.0, 12.0))
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills += 1
            state = folder / "last" / "state.json"
            if state.is_file():  # Whole whenever it is there, and no finished epoch is ever taken back.
                history = json.loads(state.read_text())["history"]
                assert len(history) >= finished_epochs
                finished_epochs = len(history)
        subprocess.run([*command, "--runs", runs], check=True, capture_output=True, timeout=600)
        _assert_same_run(folder, tmp_path / "whole" / "d2-resnet18-ce")
        shutil.rmtree(runs)
    sys.stdout.write(f"{kills} kills in {rounds} trainings\n")  # Shown with `pytest -s`.


def test_optimiser_average_and_augmentation_of_the_strong_recipe_continue_to_the_same_bytes(
    make_request: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    case = case_named("d2-resnet18-ce")
    recipe = recipe_for_case("strong", case, epochs=3, batch_size=12, resize_px=73, crop_px=64)
    whole = _train(make_request(tmp_path / "whole", recipe=recipe))
    request = make_request(tmp_path / "cut", recipe=recipe)
    cut = _interrupt(request, "epoch 2/", 2)
    assert {path.name for path in (cut / "last").glob("*.safetensors")} == {
        "weights-001.safetensors",
        "raw-001.safetensors",
        "optimiser-001.safetensors",
    }
    _train(request)
    _assert_same_run(cut, whole)


def test_a_process_killed_between_an_epochs_state_and_its_telling_tells_it_later(
    make_request: Callable[..., TrainRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, history: object) -> None:
        raise KeyboardInterrupt

    request = make_request(tmp_path, epochs=1)
    with monkeypatch.context() as patched:
        patched.setattr("train.history.write_history", killed)
        with pytest.raises(KeyboardInterrupt):
            train_run(request, _listener())
    folder = tmp_path / request.case.name
    assert (folder / "last" / "state.json").is_file()
    assert not (folder / "metrics.csv").exists()
    _train(request)
    assert [row["epoch"] for row in _history(folder)] == ["1"]


def test_tensorboard_holds_each_epoch_once_however_often_the_run_was_cut(
    make_request: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    request = make_request(tmp_path, epochs=3)
    for epoch in (2, 3):
        folder = _interrupt(request, f"epoch {epoch}/", 1)
    _train(request)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("training_loss", "validation_macro_f1", "learning_rate"):
        scalars = events.Scalars(name)
        assert [each.step for each in scalars] == [1, 2, 3]
        assert [each.value for each in scalars] == pytest.approx([float(row[name]) for row in _history(folder)])


@pytest.fixture(scope="module")
def half_trained(make_request: Callable[..., TrainRequest], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _interrupt(make_request(tmp_path_factory.mktemp("half"), epochs=2), "epoch 2/", 2)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights-001.safetensors", _truncate),
        ("optimiser-001.safetensors", _truncate),
        ("optimiser-001.safetensors", Path.unlink),
        ("state.json", _truncate),
        ("state.json", lambda path: path.write_bytes(b"\xff\xfe")),
        ("state.json", lambda path: path.write_text("{}")),
    ],
    ids=["weights cut", "optimiser cut", "optimiser gone", "state cut", "state not text", "state empty"],
)
def test_damaged_resume_state_is_refused_with_what_to_delete(
    make_request: Callable[..., TrainRequest],
    half_trained: Path,
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], object],
) -> None:
    shutil.copytree(half_trained.parent, tmp_path / "runs")
    last = tmp_path / "runs" / half_trained.name / "last"
    damage(last / name)
    with pytest.raises(RunError) as caught:
        train_run(make_request(tmp_path / "runs", epochs=2), _listener())
    assert str(last) in caught.value.hint
    shutil.rmtree(last)
    assert train_run(make_request(tmp_path / "runs", epochs=2), _listener()).trained


def test_resume_state_that_names_no_files_is_refused_in_words(
    make_request: Callable[..., TrainRequest], half_trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(half_trained.parent, tmp_path / "runs")
    last = tmp_path / "runs" / half_trained.name / "last"
    (last / "state.json").write_text('{"history": [], "best_epoch": 1, "files": {}}')
    (outcome,) = train_many([make_request(tmp_path / "runs", epochs=2)], _listener())
    assert isinstance(outcome.error, RunError)


def test_metrics_csv_has_one_line_for_each_epoch_with_figures_of_that_epoch(undisturbed: Path) -> None:
    rows = _history(undisturbed)
    assert [int(row["epoch"]) for row in rows] == list(range(1, _EPOCHS + 1))
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert all(0 <= float(row["validation_accuracy"]) <= 1 for row in rows)
