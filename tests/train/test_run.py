"""Runs: what identifies one, what is left alone, what is refused, and that its figures are its own."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, recall_score
from torch import nn

from harness.core.artifacts import Kind, verified_sidecar
from harness.core.cases import CASES, DATASETS, case_named
from harness.core.errors import DataError, RunError, UsageError
from harness.core.lock import LOCK_NAME
from harness.core.models import freeze_trunk, model_from_case, set_training_mode
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory
from harness.data.folds import prepare_folds
from harness.data.grouping import default_group
from harness.data.manifest import manifest_for_case
from harness.data.prepare import PrepareRequest
from train import run as run_module
from train.batches import Batch
from train.dry_run import planned_run
from train.losses import loss_function
from train.many import TrainOptions, fold_lines, options_from_command_line, requests_for_cases, train_many
from train.ranks import ONE_PROCESS
from train.recipes import recipe_for_case
from train.request import TrainRequest
from train.run import train_run
from train.sources import images_at_once
from train.steps import Stepper

RequestMaker = Callable[..., TrainRequest]


@pytest.fixture
def finished(copied_run: Callable[[], Any]) -> Path:
    """A copy of the session's finished run; its request is `make_request(runs_folder)`."""
    return Path(copied_run().folder)


def _contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK_NAME
    }


def test_a_finished_run_is_left_alone(make_request: RequestMaker, finished: Path) -> None:
    before = _contents(finished)
    result = train_run(make_request(finished.parent), SILENT)
    assert not result.trained
    assert result.record.status == "complete"
    assert _contents(finished) == before


def test_force_trains_again_and_leaves_nothing_of_the_old_run(make_request: RequestMaker, finished: Path) -> None:
    checkpoint = (finished / "checkpoint.safetensors").read_bytes()
    (finished / "bench").mkdir()
    result = train_run(make_request(finished.parent, force=True, seed=1), SILENT)
    assert result.trained
    assert (finished / "checkpoint.safetensors").read_bytes() != checkpoint
    assert not (finished / "export").exists()
    assert not (finished / "bench").exists()


def test_force_that_cannot_train_destroys_nothing(make_request: RequestMaker, finished: Path, tmp_path: Path) -> None:
    before = _contents(finished)
    with pytest.raises(DataError):
        train_run(make_request(finished.parent, force=True, weights=str(tmp_path / "none.pth")), SILENT)
    assert _contents(finished) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 5}, "seed: 0 here, 5 asked for"),
        ({"loss": "focal"}, "loss: ce here, focal asked for"),
        ({"label_mode": "multilabel"}, "label_mode: multiclass here, multilabel asked for"),
        ({"epochs": 2}, "recipe epochs: 1 here, 2 asked for"),
        ({"case": "d2-resnet18-focal", "name": "d2-resnet18-ce"}, "case: d2-resnet18-ce here"),
    ],
)
def test_another_identity_is_refused_with_what_differs_and_what_to_do(
    make_request: RequestMaker, finished: Path, changes: dict[str, Any], named: str
) -> None:
    before = _contents(finished)
    with pytest.raises(RunError) as caught:
        train_run(make_request(finished.parent, **changes), SILENT)
    assert named in caught.value.message
    assert "--name" in caught.value.hint
    assert "--force" in caught.value.hint
    assert _contents(finished) == before


def test_the_identity_holds_everything_that_decides_the_weights(
    make_request: RequestMaker, demo_data: Path, finished: Path, tmp_path: Path
) -> None:
    identity = RunDirectory(finished).read_record().identity
    request = make_request(finished.parent)
    assert identity.case == "d2-resnet18-ce"
    assert identity.data == manifest_for_case(demo_data, request.case).fingerprint
    assert identity.recipe == request.recipe.model_dump(mode="json")
    assert set(identity.recipe) == set(type(request.recipe).model_fields)
    assert (identity.loss, identity.label_mode, identity.seed, identity.weights) == ("ce", "multiclass", 0, "random")


def test_initial_weights_from_a_file_are_identified_by_their_bytes(
    make_request: RequestMaker, finished: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "trunk.safetensors"
    shutil.copy(finished / "checkpoint.safetensors", weights)
    request = make_request(tmp_path / "more", weights=str(weights))
    record = train_run(request, SILENT).record
    sha256 = verified_sidecar(finished / "checkpoint.safetensors", kind=Kind.CHECKPOINT, remedy="").sha256
    assert sha256 in record.identity.weights
    with weights.open("r+b") as stream:  # Another value of one weight of the trunk.
        stream.seek(-8, 2)
        stream.write(b"\x00\x00\x80\x3f")
    with pytest.raises(RunError, match="weights"):
        train_run(request, SILENT)


def test_a_folder_of_other_files_is_not_taken_for_a_run(make_request: RequestMaker, tmp_path: Path) -> None:
    folder = tmp_path / "d2-resnet18-ce"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(RunError):
        train_run(make_request(tmp_path), SILENT)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_force_does_not_take_a_folder_of_other_files_for_a_run(make_request: RequestMaker, tmp_path: Path) -> None:
    folder = tmp_path / "d2-resnet18-ce"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(RunError):
        train_run(make_request(tmp_path, force=True), SILENT)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_multilabel_is_refused_on_dataset_1(make_request: RequestMaker, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dataset-1"):
        train_run(make_request(tmp_path, case="d1-resnet18-fc", label_mode="multilabel"), SILENT)
    assert not list(tmp_path.iterdir())


def test_a_multilabel_run_trains_and_says_so(make_request: RequestMaker, tmp_path: Path) -> None:
    result = train_run(make_request(tmp_path, label_mode="multilabel", loss="focal"), SILENT)
    assert result.record.contract.label_mode == "multilabel"
    assert not result.record.one_of_the_eight
    assert not any("multi-label" in caveat for caveat in result.evaluation.caveats)


def test_evaluation_json_is_what_golden_and_labels_give(session_run: Any) -> None:
    evaluation = json.loads((session_run.folder / "evaluation.json").read_text())
    with np.load(session_run.folder / "golden.npz") as content:
        answers_b = content["logits_bc"].argmax(axis=1)
    (rows_path,) = session_run.runs_folder.glob("evaluation-sets/*/rows.csv")
    with rows_path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(answers_b) == 60
    for split in ("train", "validation", "test"):
        labels = [int(row["label"]) for row in rows if row["split"] == split]
        answers = [answers_b[i] for i, row in enumerate(rows) if row["split"] == split]
        ours = evaluation["ours"][split]
        assert ours["images"] == len(labels)
        assert ours["accuracy"] == pytest.approx(accuracy_score(labels, answers))
        assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, answers))
        assert ours["macro_f1"] == pytest.approx(
            f1_score(labels, answers, labels=[0, 1, 2], average="macro", zero_division=0)
        )
        assert ours["confusion"] == confusion_matrix(labels, answers, labels=[0, 1, 2]).tolist()
        recalls = recall_score(labels, answers, labels=[0, 1, 2], average=None, zero_division=0)
        assert [each["recall"] for each in ours["classes"].values()] == pytest.approx(list(recalls))
    sha256 = verified_sidecar(session_run.folder / "checkpoint.safetensors", kind=Kind.CHECKPOINT, remedy="").sha256
    assert evaluation["checkpoint_sha256"] == sha256


def test_the_last_epochs_validation_figures_are_those_of_the_evaluation(session_run: Any) -> None:
    # One computes them while training, the other from the written checkpoint.
    with (session_run.folder / "metrics.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    ours = json.loads((session_run.folder / "evaluation.json").read_text())["ours"]["validation"]
    assert float(row["validation_accuracy"]) == pytest.approx(ours["accuracy"])
    assert float(row["validation_macro_f1"]) == pytest.approx(ours["macro_f1"])


@pytest.mark.parametrize("damage", ["", "{", '{"epoch": 1}'])
def test_a_finished_run_with_a_damaged_evaluation_ends_in_words_or_is_mended(
    make_request: RequestMaker, finished: Path, damage: str
) -> None:
    (finished / "evaluation.json").write_text(damage)
    (outcome,) = train_many([make_request(finished.parent)], SILENT)
    if outcome.error is not None:
        assert "evaluation.json" in outcome.error.message
    else:
        assert outcome.result is not None
        assert "test" in outcome.result.evaluation.ours


def test_a_damaged_run_json_is_refused_in_words(make_request: RequestMaker, finished: Path) -> None:
    (finished / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json"):
        train_run(make_request(finished.parent), SILENT)


def test_a_film_that_changed_stops_the_training_before_anything_is_written(
    make_request: RequestMaker, demo_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(demo_data, data)
    manifest = data / "dataset2" / "manifest.csv"
    sidecar = manifest.with_name("manifest.csv.json")
    content = json.loads(sidecar.read_text())
    content["details"]["root"] = str(data / "phantoms")
    sidecar.write_text(json.dumps(content))
    film = next((data / "phantoms" / "covid").glob("*.png"))
    film.write_bytes(film.read_bytes() + b"\0")
    with pytest.raises(DataError, match=film.name):
        train_run(make_request(tmp_path / "runs", data_folder=data), SILENT)
    assert not (tmp_path / "runs" / "d2-resnet18-ce" / "run.json").exists()


def test_training_goes_on_with_the_next_case_when_one_fails(make_request: RequestMaker, tmp_path: Path) -> None:
    impossible = make_request(tmp_path, weights=str(tmp_path / "none.pth"))
    possible = make_request(tmp_path, case="d1-resnet18-fc")
    outcomes = train_many([impossible, possible], SILENT)
    assert [outcome.error is None for outcome in outcomes] == [False, True]
    assert outcomes[0].row()[1] == "FAILED"
    assert "none.pth" in outcomes[0].summary()["error"]
    assert outcomes[1].result is not None
    assert outcomes[1].row()[1] == "trained"


def test_training_goes_on_when_torch_itself_fails_on_one_case(
    make_request: RequestMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # A real RuntimeError of torch: an allocation that no machine can serve.
    def exhausted(images_bchw: torch.Tensor, labels_b: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 60)

    monkeypatch.setattr("train.run.loss_function", lambda loss, mode, **_: exhausted if mode == "multilabel" else _ce)
    requests = [
        make_request(tmp_path, label_mode="multilabel", name="first"),
        make_request(tmp_path, name="second"),
    ]
    outcomes = train_many(requests, SILENT)
    assert outcomes[0].error is not None
    assert outcomes[1].error is None
    assert "first failed" in caplog.text


_ce = loss_function("ce", "multiclass")


def _many_options(tmp_path: Path, **changes: Any) -> TrainOptions:
    options: dict[str, Any] = {
        "data_folder": tmp_path,
        "runs_folder": tmp_path,
        "name": None,
        "recipe": "quick",
        "loss": None,
        "label_mode": "multiclass",
        "weights": "random",
        "seed": 0,
        "precision": "auto",
        "fold": None,
        "force": False,
        "dry_run": False,
    }
    return options_from_command_line(options | changes)


def test_one_name_cannot_be_given_to_several_cases(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--name"):
        requests_for_cases(list(CASES.values()), _many_options(tmp_path, name="one"))


@pytest.mark.parametrize("name", ["../outside", "a/b", "..", ".", "/tmp/x"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        requests_for_cases([case_named("d2-resnet18-ce")], _many_options(tmp_path, name=name))


def test_options_of_the_recipe_reach_the_identity_of_the_run(tmp_path: Path) -> None:
    overrides: dict[str, Any] = {
        "augmentation": "study",
        "epochs": 3,
        "batch_size": 7,
        "learning_rate": 0.5,
        "patience": 2,
        "class_weights": "balanced",
        "views": 4,
        "cache_side_px": 300,
        "limit_batches": 5,
        "deterministic": True,
    }
    options = _many_options(tmp_path, precision="bf16", **overrides)
    (request,) = requests_for_cases([case_named("d1-resnet18-fc")], options)
    recipe = request.recipe.model_dump()
    assert {name: recipe[name] for name in overrides} == overrides
    assert recipe["precision"] == "bf16"


@pytest.fixture
def folds(demo_data: Path, tmp_path: Path) -> Path:
    """Two folds of the phantoms of dataset-2, named as the command names them."""
    prepare_folds(
        PrepareRequest(
            source=demo_data / "phantoms",
            out=tmp_path / "data" / "dataset2",
            dataset=DATASETS[2],
            fractions=None,
            seed=0,
            group_of=default_group,
            placement="reference",
        ),
        2,
        SILENT,
    )
    return tmp_path / "data"


def test_every_fold_is_a_run_of_its_own_and_the_figures_are_put_together(folds: Path, tmp_path: Path) -> None:
    case = case_named("d2-resnet18-ce")
    options = _many_options(tmp_path / "runs", data_folder=folds, fold="all", epochs=1, batch_size=12)
    outcomes = train_many(requests_for_cases([case], options), SILENT)
    assert [outcome.name for outcome in outcomes] == ["d2-resnet18-ce-fold-1", "d2-resnet18-ce-fold-2"]
    results = [outcome.result for outcome in outcomes]
    assert all(results)
    accuracies = [result.evaluation.ours["test"].accuracy for result in results if result]
    (line,) = fold_lines(outcomes)
    assert line.startswith(
        f"d2-resnet18-ce, 2 folds: accuracy {np.mean(accuracies):.3f} (sd {np.std(accuracies, ddof=1):.3f})"
    )
    assert "recall of covid" in line
    assert fold_lines(outcomes[:1]) == []


def test_ordinary_runs_of_several_cases_are_no_folds(make_request: RequestMaker, tmp_path: Path) -> None:
    requests = [make_request(tmp_path, case=name) for name in ("d1-resnet18-fc", "d2-resnet18-ce", "d2-resnet18-focal")]
    outcomes = train_many(requests, SILENT)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert fold_lines(outcomes) == []


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_learning_rate_that_is_no_number_is_wrong_usage(tmp_path: Path, rate: float) -> None:
    with pytest.raises(UsageError, match="--lr"):
        requests_for_cases([case_named("d2-resnet18-ce")], _many_options(tmp_path, learning_rate=rate))


def test_options_without_effect_are_named_and_do_not_make_another_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = [case_named("d2-resnet18-ce")]
    (plain,) = requests_for_cases(cases, _many_options(tmp_path))
    (other,) = requests_for_cases(cases, _many_options(tmp_path, views=2, cache_side_px=200))
    assert other.recipe == plain.recipe
    assert "views has no effect" in caplog.text
    assert "cache_side_px has no effect" in caplog.text
    (frozen,) = requests_for_cases(
        [case_named("d1-resnet18-fc")], _many_options(tmp_path, recipe="published", views=2, cache_side_px=200)
    )
    assert (frozen.recipe.views, frozen.recipe.cache_side_px) == (2, 200)


@pytest.mark.parametrize("name", ["evaluation-sets", "film-caches", "report"])
def test_a_name_of_a_shared_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="share"):
        requests_for_cases([case_named("d2-resnet18-ce")], _many_options(tmp_path, name=name))


def test_what_a_process_killed_at_its_first_word_left_behind_stops_nobody(
    make_request: RequestMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "d2-resnet18-ce"
    folder.mkdir()
    (folder / ".run.json.999999.tmp").write_text("{")
    assert train_run(make_request(tmp_path), SILENT).trained
    assert not list(folder.glob(".*.tmp"))


def test_a_file_in_the_place_of_a_run_is_named(make_request: RequestMaker, tmp_path: Path) -> None:
    (tmp_path / "d2-resnet18-ce").write_text("mine")
    with pytest.raises(RunError, match="is a file"):
        train_run(make_request(tmp_path), SILENT)


def test_resume_state_that_outlived_a_finished_run_is_removed(make_request: RequestMaker, finished: Path) -> None:
    (finished / "last").mkdir()
    (finished / "last" / "weights-001.safetensors").write_bytes(b"left")
    assert not train_run(make_request(finished.parent), SILENT).trained
    assert not (finished / "last").exists()


def test_where_there_are_no_hard_links_the_checkpoint_is_copied(
    make_request: RequestMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(run_module.os, "link", refused)
    result = train_run(make_request(tmp_path), SILENT)
    assert verified_sidecar(result.run.checkpoint, kind=Kind.CHECKPOINT, remedy="").size_bytes > 10**7


@pytest.mark.parametrize("fold", ["3", "all"])
def test_a_fold_that_is_not_there_is_missed_in_words(tmp_path: Path, demo_data: Path, fold: str) -> None:
    with pytest.raises(DataError, match="fold"):
        requests_for_cases([case_named("d2-resnet18-ce")], _many_options(tmp_path, data_folder=demo_data, fold=fold))


@pytest.mark.parametrize("fold", ["one", "-1", "1.5", ""])
def test_a_fold_that_is_no_number_is_wrong_usage(tmp_path: Path, fold: str) -> None:
    with pytest.raises(UsageError, match="--fold"):
        requests_for_cases([case_named("d2-resnet18-ce")], _many_options(tmp_path, fold=fold))


def test_patience_ends_a_run_that_no_longer_gets_better(make_request: RequestMaker, tmp_path: Path) -> None:
    case = case_named("d2-resnet18-ce")
    # A rate so small that validation never changes: the first epoch stays the best.
    recipe = recipe_for_case("quick", case, epochs=9, batch_size=12, learning_rate=1e-12, patience=2)
    result = train_run(make_request(tmp_path, recipe=recipe), SILENT)
    with result.run.metrics.open(newline="") as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2", "3"]
    assert result.evaluation.best_epoch == 1


def test_a_dry_run_says_what_would_be_and_writes_nothing(
    make_request: RequestMaker, finished: Path, tmp_path: Path
) -> None:
    new = make_request(tmp_path / "new", case="d1-resnet18-fc")
    plan = planned_run(new)
    assert plan.state == "new"
    assert plan.films == {"train": 26, "validation": 9, "test": 25}
    assert (plan.epochs, plan.steps_per_epoch) == (1, 3)
    assert plan.trainable_parameters == 512 * 7100 + 7100 + 7100 * 2 + 2
    assert plan.step_s > 0
    assert not (tmp_path / "new").exists()
    before = _contents(finished)
    assert planned_run(make_request(finished.parent)).state == "complete"
    with pytest.raises(RunError, match="another experiment"):
        planned_run(make_request(finished.parent, seed=9))
    assert _contents(finished) == before


def test_a_run_that_another_process_is_training_is_refused_by_name(make_request: RequestMaker, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from harness.core.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "d2-resnet18-ce"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"):
            train_run(make_request(tmp_path), SILENT)
        holder.kill()
    assert train_run(make_request(tmp_path), SILENT).trained


def test_a_run_finished_by_somebody_else_while_we_waited_is_not_trained_again(
    make_request: RequestMaker, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What this process saw before it had the lock is old: only the second look counts.
    looks = iter([None])
    look = run_module._finished_before
    monkeypatch.setattr(run_module, "_finished_before", lambda *each: next(looks, look(*each)))
    before = _contents(finished)
    assert not train_run(make_request(finished.parent), SILENT).trained
    assert _contents(finished) == before


def test_a_loss_that_is_no_longer_finite_ends_the_run_and_keeps_the_epochs_before(
    make_request: RequestMaker, tmp_path: Path
) -> None:
    case = case_named("d2-resnet18-ce")
    recipe = recipe_for_case("quick", case, epochs=2, batch_size=12, learning_rate=1e30)
    with pytest.raises(RunError, match="loss is"):
        train_run(make_request(tmp_path, recipe=recipe), SILENT)
    assert not (tmp_path / case.name / "checkpoint.safetensors").exists()


class _Tiny(nn.Module):
    """Convolutions and a head without batch-norm or dropout, as VGG's features are."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(16, 3)

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        logits_bc: torch.Tensor = self.head(self.features(images_bchw))
        return logits_bc


@pytest.mark.parametrize("loss", ["ce", "focal"])
@pytest.mark.parametrize("label_mode", ["multiclass", "multilabel"])
@pytest.mark.parametrize("at_once", [1, 4, 16])
def test_a_batch_worked_off_in_parts_gives_the_gradients_of_the_whole(loss: str, label_mode: str, at_once: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images_bchw, labels_b = torch.randn(11, 3, 8, 8, generator=generator), torch.arange(11) % 3
    torch.manual_seed(0)
    network = _Tiny()
    gradients, losses = [], []
    for parts in (None, at_once):
        stepper = Stepper(
            module=network,
            loss=loss_function(loss, label_mode),  # type: ignore[arg-type]
            optimiser=torch.optim.SGD(network.parameters(), lr=0.0),
            precision="fp32",
            images_at_once=parts,
            device=torch.device("cpu"),
            ranks=ONE_PROCESS,
        )
        losses.append(stepper.step(Batch(inputs=images_bchw, labels_b=labels_b, weight=1.0), 0.0))
        gradients.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for whole, parted in zip(*gradients, strict=True):
        torch.testing.assert_close(parted, whole, rtol=1e-4, atol=1e-6)


def test_only_vgg_whose_layers_do_not_see_the_batch_is_worked_off_in_parts() -> None:
    for case in CASES.values():
        with torch.device("meta"):
            network = model_from_case(case, seed=0)
        sees_batch = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        assert (images_at_once(case.architecture, recipe_for_case("published", case)) is None) is sees_batch


@pytest.mark.parametrize("name", CASES)
def test_a_frozen_trunk_keeps_its_statistics_and_everything_else_trains(name: str) -> None:
    case = case_named(name)
    with torch.device("meta"):
        network = model_from_case(case, seed=0)
    if case.trainable == "head":
        freeze_trunk(network, case.architecture)
    network.eval()
    set_training_mode(network, case)
    head = "fc" if case.architecture == "resnet18" else "classifier"
    for child_name, child in network.named_children():
        training = case.trainable == "all" or child_name == head
        assert all(module.training is training for module in child.modules())
        assert all(parameter.requires_grad is training for parameter in child.parameters())


def test_training_a_head_changes_nothing_of_the_trunk(make_request: RequestMaker, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    case = case_named("d1-resnet18-fc")
    train_run(make_request(tmp_path, case=case.name), SILENT)
    trained = load_file(tmp_path / case.name / "checkpoint.safetensors")
    fresh = model_from_case(case, seed=0).state_dict()
    changed = {name.split(".")[0] for name in fresh if not torch.equal(fresh[name], trained[name])}
    assert changed == {"fc"}
