"""A run's identity in words, its record on the disk, and runs found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.core.contract import Contract, Preprocessing
from harness.core.errors import RunError, UsageError
from harness.core.runs import RunDirectory, RunIdentity, RunRecord, runs_from_names

_IDENTITY = RunIdentity(
    case="d2-resnet18-ce",
    data="ab" * 32,
    recipe={"name": "quick", "epochs": 2},
    loss="ce",
    label_mode="multiclass",
    seed=0,
    weights="random",
)


def _record(name: str, *, status: Any = "complete") -> RunRecord:
    contract = Contract(
        case="d2-resnet18-ce",
        class_names=("covid", "normal", "pneumonia"),
        label_mode="multiclass",
        preprocessing=Preprocessing(resize_px=72, crop_px=64),
        synthetic=True,
    )
    return RunRecord(
        name=name,
        identity=_IDENTITY,
        contract=contract,
        manifest="data/dataset2/manifest.csv",
        status=status,
        one_of_the_eight=True,
        created="2026-01-01T00:00:00+00:00",
        machine={"cores": 2},
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "runs" / "first")
    directory.write_record(_record("first"))
    return directory


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"case": "d2-vgg16-ce"}, "case: d2-resnet18-ce here, d2-vgg16-ce asked for"),
        ({"data": "cd"}, f"data: {'ab' * 32} here, cd asked for"),
        ({"recipe": {"name": "quick", "epochs": 3}}, "recipe epochs: 2 here, 3 asked for"),
        ({"loss": "focal"}, "loss: ce here, focal asked for"),
        ({"label_mode": "multilabel"}, "label_mode: multiclass here, multilabel asked for"),
        ({"seed": 1}, "seed: 0 here, 1 asked for"),
        ({"weights": "imagenet"}, "weights: random here, imagenet asked for"),
    ],
)
def test_each_field_of_an_identity_is_told_apart_in_words(update: dict[str, Any], words: str) -> None:
    assert _IDENTITY.differences(_IDENTITY.model_copy(update=update)) == [words]


def test_equal_identities_do_not_differ() -> None:
    assert _IDENTITY.differences(RunIdentity.model_validate_json(_IDENTITY.model_dump_json())) == []


def test_a_record_is_read_as_it_was_written(run: RunDirectory) -> None:
    assert run.read_record() == run.finished_record() == _record("first")


def test_a_folder_without_a_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no run\.json"):
        RunDirectory(tmp_path).read_record()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe"], ids=["empty", "no fields", "no text"])
def test_a_damaged_record_is_refused(run: RunDirectory, content: bytes) -> None:
    run.record_path.write_bytes(content)

    with pytest.raises(RunError, match="not readable"):
        run.read_record()


def test_an_unfinished_run_is_not_taken_for_a_finished_one(run: RunDirectory) -> None:
    run.write_record(_record("first", status="training"))

    with pytest.raises(RunError, match="has not finished") as caught:
        run.finished_record()
    assert "harness train d2-resnet18-ce" in caught.value.hint


def test_runs_are_found_by_name_each_once_and_all_of_them_without_a_name(run: RunDirectory) -> None:
    runs_folder = run.folder.parent
    RunDirectory(runs_folder / "second").write_record(_record("second"))
    (runs_folder / "report").mkdir()

    assert [found.name for found in runs_from_names(runs_folder, ())] == ["first", "second"]
    assert [found.name for found in runs_from_names(runs_folder, ("second", "second"))] == ["second"]


def test_a_run_that_is_not_there_is_answered_with_those_that_are(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="no run named third") as caught:
        runs_from_names(run.folder.parent, ("first", "third"))
    assert "first" in caught.value.hint


def test_a_folder_without_runs_is_answered_with_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There are no runs") as caught:
        runs_from_names(tmp_path / "nowhere", ())
    assert "harness train all" in caught.value.hint
