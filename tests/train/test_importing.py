"""A state dict from elsewhere as a run: finished, exported, measured and reported like a trained one, or refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import nn

from bench.many import BenchRequest, bench_many
from bench.report import write_report
from export.many import export_many
from export.request import ExportRequest
from harness.cli import cli
from harness.core.artifacts import Kind, verified_sidecar
from harness.core.cases import case_named
from harness.core.errors import DataError, HarnessError, RunError, UsageError
from harness.core.files import sha256_from_file
from harness.core.lock import LOCK_NAME
from harness.core.models import model_from_case
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory
from harness.data.evaluation_set import evaluation_set_from_folder
from harness.data.preprocessing import images_from_pixels
from train import importing
from train.importing import ImportRequest, ImportResult, import_run

_CASE = case_named("d2-resnet18-ce")


def _network(seed: int = 11) -> nn.Module:
    return model_from_case(_CASE, seed=seed).eval()


def _request(path: Path, data: Path, runs_folder: Path, /, **changes: Any) -> ImportRequest:
    values: dict[str, Any] = {
        "case": _CASE,
        "data_folder": data,
        "runs_folder": runs_folder,
        "name": None,
        "label_mode": "multiclass",
        "force": False,
    }
    return ImportRequest(**(values | {"path": path} | changes))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as a training script with DataParallel saves it."""
    path = tmp_path_factory.mktemp("elsewhere") / "fine-tuned.pth"
    state = {f"module.{name}": tensor for name, tensor in _network().state_dict().items()}
    torch.save({"epoch": 9, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def imported(weights: Path, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ImportResult:
    """The file as a run; tests that change it take `copied`."""
    return import_run(_request(weights, demo_data, tmp_path_factory.mktemp("imported") / "runs"), SILENT)


@pytest.fixture
def copied(imported: ImportResult, weights: Path, demo_data: Path, tmp_path: Path) -> ImportRequest:
    """The request of the run, on a copy of it."""
    shutil.copytree(imported.run.folder.parent, tmp_path / "runs")
    return _request(weights, demo_data, tmp_path / "runs")


def _contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK_NAME
    }


def test_an_imported_file_is_a_finished_run_that_says_where_it_came_from(imported: ImportResult, weights: Path) -> None:
    record = imported.run.finished_record()
    sha256 = sha256_from_file(weights)

    assert imported.imported
    assert record == imported.record
    assert record.identity.imported
    assert record.identity.weights == f"file fine-tuned.pth {sha256}"
    assert record.identity.recipe == {"name": "imported", "resize_px": 256, "crop_px": 224}
    assert (record.contract.preprocessing.resize_px, record.contract.preprocessing.crop_px) == (256, 224)
    assert record.one_of_the_eight
    sidecar = verified_sidecar(imported.run.checkpoint, kind=Kind.CHECKPOINT, remedy="")
    assert sidecar.parents == {"data": record.identity.data, "file": sha256}
    assert sidecar.details["identity"] == record.identity.model_dump(mode="json")


def test_the_checkpoint_holds_the_files_tensors_and_the_golden_their_answers(imported: ImportResult) -> None:
    network = _network()
    state, checkpoint = network.state_dict(), load_file(imported.run.checkpoint)
    (folder,) = imported.run.evaluation_sets.iterdir()
    pixels_bhwc = evaluation_set_from_folder(folder).pixels_bhwc[:2]
    images_bchw = images_from_pixels(pixels_bhwc, imported.record.contract.preprocessing)

    assert {name: tensor.shape for name, tensor in checkpoint.items()} == {name: t.shape for name, t in state.items()}
    assert all(torch.equal(checkpoint[name], state[name]) for name in state)
    with np.load(imported.run.golden) as golden, torch.inference_mode():
        assert golden["logits_bc"].shape == (60, 3)
        np.testing.assert_allclose(
            golden["logits_bc"][:2], network(torch.from_numpy(images_bchw)).numpy(), rtol=1e-4, atol=1e-5
        )


def test_the_evaluation_is_honest_about_weights_of_unknown_origin(imported: ImportResult) -> None:
    evaluation = json.loads(imported.run.evaluation.read_text())

    assert set(evaluation["ours"]) == {"train", "validation", "test"}
    assert evaluation["epoch"] == 0
    assert any("may have been among their training films" in note for note in evaluation["caveats"])
    assert any(note.startswith("Tested on synthetic phantoms") for note in evaluation["caveats"])
    assert not any("Trained and tested" in note for note in evaluation["caveats"])
    assert "d2-resnet18-ce: imported (file fine-tuned.pth " in imported.lines()[-1]
    assert imported.summary()["imported"] is True


def test_export_bench_and_report_work_on_an_imported_run(copied: ImportRequest) -> None:
    run = RunDirectory(copied.runs_folder / "d2-resnet18-ce")
    request = ExportRequest()

    (exported,) = export_many([run], request, SILENT)
    benched = bench_many(
        [run],
        BenchRequest.from_options(
            backends=("onnxruntime",), batch_sizes=(1,), threads=(1,), margin=1.0, mode="untimed", force=False
        ),
        SILENT,
    )
    report = write_report(copied.runs_folder, [run])[0].read_text()

    assert exported.error is None, exported.error
    (result,) = [each for each in benched.results if each.trial.backend == "onnxruntime"]
    assert result.parity is not None
    assert result.parity.changed_answers == 0
    assert "file fine-tuned.pth" in report
    assert "Weights trained elsewhere and imported" in report
    assert "Not one of the study's eight cases" not in report


def test_a_file_that_was_imported_before_is_left_alone(copied: ImportRequest) -> None:
    before = _contents(copied.runs_folder)

    again = import_run(copied, SILENT)

    assert not again.imported
    assert "already imported" in again.lines()[-1]
    assert _contents(copied.runs_folder) == before


def test_the_command_gives_its_result_to_people_and_to_machines(copied: ImportRequest) -> None:
    arguments = ["import", "d2-resnet18-ce", str(copied.path), "--data", str(copied.data_folder)]
    arguments += ["--runs", str(copied.runs_folder)]

    shown = CliRunner().invoke(cli, arguments)
    machine = CliRunner().invoke(cli, [*arguments, "--json"])

    assert "test, this run:" in shown.stdout
    assert "d2-resnet18-ce: already imported" in shown.stdout
    assert json.loads(machine.stdout)["weights"] == f"file fine-tuned.pth {sha256_from_file(copied.path)}"


def test_another_file_under_the_same_name_is_refused_until_it_is_forced(copied: ImportRequest, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file(_network(seed=12).state_dict(), other)
    with pytest.raises(RunError, match=r"weights: file fine-tuned\.pth \w+ here, file other\.safetensors"):
        import_run(replace(copied, path=other), SILENT)

    result = import_run(replace(copied, path=other, force=True), SILENT)

    assert result.imported
    assert torch.equal(load_file(result.run.checkpoint)["conv1.weight"], load_file(other)["conv1.weight"])


def test_force_that_cannot_import_destroys_nothing(copied: ImportRequest, tmp_path: Path) -> None:
    odd = tmp_path / "odd.pth"
    torch.save(model_from_case(case_named("d1-resnet18-fc"), seed=0).state_dict(), odd)
    before = _contents(copied.runs_folder)

    with pytest.raises(DataError, match="does not fit d2-resnet18-ce") as caught:
        import_run(replace(copied, path=odd, force=True), SILENT)

    assert "d1-resnet18-fc and d1-resnet18-all" in caught.value.hint
    assert _contents(copied.runs_folder) == before


def test_force_does_not_delete_the_very_file_that_is_imported(copied: ImportRequest) -> None:
    inside = copied.runs_folder / "d2-resnet18-ce" / "checkpoint.safetensors"

    with pytest.raises(UsageError, match="--force would delete"):
        import_run(replace(copied, path=inside, force=True), SILENT)

    assert inside.is_file()


def test_a_trained_run_is_not_overwritten_by_an_import(
    copied_run: Callable[[], Any], weights: Path, demo_data: Path
) -> None:
    run = copied_run()
    before = _contents(run.folder)

    with pytest.raises(RunError, match="another experiment"):
        import_run(_request(weights, demo_data, run.runs_folder), SILENT)

    assert _contents(run.folder) == before


def test_an_import_that_was_interrupted_says_so_and_is_completed_by_the_same_command(
    copied: ImportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(copied.runs_folder / "again")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "completed_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_run(replace(copied, name="again"), SILENT)
    monkeypatch.undo()
    with pytest.raises(RunError, match="has not finished") as caught:
        run.finished_record()
    result = import_run(replace(copied, name="again"), SILENT)

    assert "harness import d2-resnet18-ce FILE" in caught.value.hint
    assert result.imported
    assert run.finished_record().status == "complete"


def test_a_multilabel_import_answers_like_the_study(copied: ImportRequest) -> None:
    result = import_run(replace(copied, name="study", label_mode="multilabel"), SILENT)

    assert result.record.contract.label_mode == "multilabel"
    assert not any("multi-label" in note for note in result.evaluation.caveats)


def test_a_pickle_that_would_run_code_is_refused_before_anything_is_written(demo_data: Path, tmp_path: Path) -> None:
    proof = tmp_path / "the-code-ran"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(proof),)

    path = tmp_path / "weights.pth"
    torch.save(_network().state_dict() | {"conv1.weight": Malicious()}, path)

    with pytest.raises(DataError, match=r"would run code that the file names \(\w+\.mkdir\)"):
        import_run(_request(path, demo_data, tmp_path / "runs"), SILENT)

    assert not proof.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"case": case_named("d1-resnet18-fc"), "label_mode": "multilabel"}, UsageError, "exclude each other"),
        ({"name": "../outside"}, UsageError, "not a plain folder name"),
        ({"path": Path("nowhere.pth")}, DataError, "There is no weights file"),
        ({"data_folder": Path("nowhere")}, DataError, "needs dataset-2"),
    ],
)
def test_a_request_that_cannot_be_is_refused_in_words(
    weights: Path, demo_data: Path, tmp_path: Path, changes: dict[str, Any], error: type[HarnessError], words: str
) -> None:
    with pytest.raises(error, match=words):
        import_run(_request(weights, demo_data, tmp_path / "runs", **changes), SILENT)

    assert list(tmp_path.iterdir()) == []
