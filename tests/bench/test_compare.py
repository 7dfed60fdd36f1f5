"""`harness compare` on runs that were really exported and measured: what changed, and whether it is told rightly."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from scipy import stats
from sklearn.linear_model import LogisticRegression

from bench.compare import compare
from bench.compare_report import answer_rows, markdown
from bench.comparison import Comparison, RunComparison, TrialComparison
from bench.many import BenchRequest, bench_many
from bench.paired import FilmAnswers, paired
from bench.statistics import tango_interval, tango_p
from export.many import export_many
from export.request import ExportRequest
from harness.cli import cli, main
from harness.core.artifacts import Kind, read_sidecar, write_artifact
from harness.core.cases import case_named
from harness.core.errors import ArtifactError, HarnessError, UsageError
from harness.core.files import sha256_from_file
from harness.core.models import model_from_checkpoint
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory
from harness.core.tensors import save_tensors
from harness.data.evaluation_set import EvaluationSet, evaluation_set_from_folder
from harness.data.preprocessing import images_from_pixels
from tests.bench.timings_made_up import timing_of

_TRIAL = "fp32.onnxruntime.b2.t1"
_TEST_IMAGES = 24
# Test images that the two checkpoints are made to answer wrongly: 0 in both, 1 only in OLD, five only in NEW.
_OLD_WRONG, _NEW_WRONG = (0, 1), (0, 2, 3, 4, 5, 6)
_MARGIN_POINTS = 25.0


def _evaluation_set(runs_folder: Path) -> EvaluationSet:
    (folder,) = (runs_folder / "evaluation-sets").iterdir()
    return evaluation_set_from_folder(folder)


def _fit_head(run: RunDirectory, wrong: tuple[int, ...]) -> None:
    """Give a run a head that answers every image rightly but the named ones of the test split.

    The phantoms' few training steps teach the network nothing that a gate would accept; a head that knows the answers
    makes a checkpoint with exactly the errors a test needs.
    """
    record, images = run.read_record(), _evaluation_set(run.folder.parent)
    network = model_from_checkpoint(case_named(record.identity.case), run.checkpoint)
    network.fc = torch.nn.Identity()  # type: ignore[assignment]
    with torch.inference_mode():
        pixels_bchw = images_from_pixels(np.asarray(images.pixels_bhwc), record.contract.preprocessing)
        features_bf = network(torch.from_numpy(pixels_bchw)).double().numpy()
    wanted_b = images.labels_b.copy()
    moved = images.indices_of("test")[list(wrong)]
    wanted_b[moved] = (wanted_b[moved] + 1) % 3
    mean_f, spread_f = features_bf.mean(axis=0), features_bf.std(axis=0) + 1e-9
    head = LogisticRegression(C=1.0, max_iter=5000).fit((features_bf - mean_f) / spread_f, wanted_b)
    state = load_file(run.checkpoint)
    state["fc.0.weight"] = torch.from_numpy((head.coef_ / spread_f).astype(np.float32))
    state["fc.0.bias"] = torch.from_numpy((head.intercept_ - head.coef_ @ (mean_f / spread_f)).astype(np.float32))
    sidecar = read_sidecar(run.checkpoint, kind=Kind.CHECKPOINT, remedy="")
    write_artifact(
        run.checkpoint,
        partial(save_tensors, tensors=state),
        kind=Kind.CHECKPOINT,
        parents=sidecar.parents,
        contract=sidecar.contract,
        details=sidecar.details,
    )


def _bench(run: RunDirectory, margin: float = _MARGIN_POINTS) -> Any:
    request = BenchRequest.from_options(
        backends=("onnxruntime",), batch_sizes=(2,), threads=(1,), margin=margin, mode="untimed", force=False
    )
    (result,) = bench_many([run], request, SILENT).results
    return result


def _made(session_run: Any, runs_folder: Path, wrong: tuple[int, ...]) -> Path:
    shutil.copytree(session_run.runs_folder, runs_folder)
    run = RunDirectory(runs_folder / session_run.folder.name)
    shutil.rmtree(run.export_folder)
    _fit_head(run, wrong)
    (outcome,) = export_many([run], ExportRequest(), SILENT)
    assert outcome.error is None, outcome.error
    assert _bench(run).verdict.word == "PASS"
    return run.folder


@pytest.fixture(scope="module")
def measured(session_run: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two checkpoints of one split, each exported and measured with PASS."""
    folder = tmp_path_factory.mktemp("compared")
    return {
        "old": _made(session_run, folder / "old", _OLD_WRONG),
        "other": _made(session_run, folder / "other", _NEW_WRONG),
    }


@pytest.fixture
def old(measured: dict[str, Path]) -> Path:
    return measured["old"]


@pytest.fixture
def new(old: Path, tmp_path: Path) -> Path:
    """A copy of OLD, its evaluation set included, to be damaged."""
    shutil.copytree(old.parent, tmp_path / "new")
    return tmp_path / "new" / old.name


@pytest.fixture
def other(measured: dict[str, Path]) -> Path:
    return measured["other"]


def _run(comparison: Comparison) -> RunComparison:
    (run,) = comparison.runs
    return run


def _trial(comparison: Comparison) -> TrialComparison:
    (trial,) = _run(comparison).trials
    return trial


def _change_record(run: Path, **changes: Any) -> None:
    path = run / "bench" / f"{_TRIAL}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def _exit_code(*arguments: str | Path) -> int:
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)]).exit_code


def test_a_run_and_its_copy_compare_equal_in_verdict_and_in_every_answer(old: Path, new: Path) -> None:
    comparison = compare(old, new)
    trial = _trial(comparison)
    assert comparison.headline() == "0 verdicts lost, 0 gained, 1 unchanged"
    assert (trial.old_word, trial.new_word, trial.change) == ("PASS", "PASS", "unchanged")
    assert trial.paired is not None
    assert (trial.paired.images, trial.paired.changed) == (_TEST_IMAGES, ())
    assert trial.paired.accuracy is not None
    assert trial.paired.accuracy.table == (_TEST_IMAGES - 2, 0, 0, 2)
    assert trial.paired.accuracy.mcnemar_p == 1.0
    assert _run(comparison).checkpoints is None
    assert "both sides have the same checkpoint" in _run(comparison).notes
    assert _run(comparison).differences == []
    assert _exit_code(old, new) == 0
    assert _exit_code(old, new, "--strict") == 0


def test_an_onnx_file_damaged_after_it_passed_has_lost_its_pass_without_being_measured_again(
    old: Path, new: Path
) -> None:
    _flip_a_byte(new / "export" / "fp32.onnx")
    trial = _trial(compare(old, new))
    assert (trial.change, trial.old_word, trial.new_word) == ("lost", "PASS", "FAIL")
    assert trial.new is not None
    assert trial.new.step == "contract"
    assert trial.new.notes == ("its record says PASS (parity), judged again it is FAIL (contract)",)
    assert _exit_code(old, new) == 3


def test_an_old_file_damaged_after_it_passed_hides_no_loss(old: Path, new: Path, tmp_path: Path) -> None:
    shutil.copytree(new.parent, tmp_path / "worse")
    worse = tmp_path / "worse" / new.name
    for folder in (new, worse):
        _flip_a_byte(folder / "export" / "fp32.onnx")
    comparison = compare(new, worse)
    assert (_trial(comparison).old_word, _trial(comparison).change) == ("PASS", "lost")
    assert any("its PASS stands, so that no loss is hidden" in note for note in _run(comparison).notes)
    assert _trial(compare(new, old)).change == "unchanged"


def test_an_onnx_file_damaged_before_it_is_measured_again_has_lost_its_pass(old: Path, new: Path) -> None:
    _flip_a_byte(new / "export" / "fp32.onnx")
    assert _bench(RunDirectory(new)).verdict.word == "FAIL"
    comparison = compare(old, new)
    assert comparison.headline() == "1 verdict lost, 0 gained, 0 unchanged"
    assert _trial(comparison).paired is None
    assert comparison.pass_lost(strict=False)
    text = markdown(comparison, strict=False)
    assert text.startswith("### Parity: 1 verdict lost, 0 gained, 0 unchanged\n\n**A PASS was lost: do not ship NEW")
    assert "PASS -> FAIL (contract)" in text
    assert "fp32.onnx is not the file that its sidecar describes" in text


def test_the_other_way_round_a_pass_is_gained_and_nothing_is_lost(old: Path, new: Path) -> None:
    _flip_a_byte(new / "export" / "fp32.onnx")
    assert _bench(RunDirectory(new)).verdict.step == "contract"
    comparison = compare(new, old)
    assert comparison.headline() == "0 verdicts lost, 1 gained, 0 unchanged"
    assert _exit_code(new, old) == 0


def test_two_checkpoints_are_compared_on_their_common_test_films_by_mcnemar(old: Path, other: Path) -> None:
    comparison = compare(old, other)
    images = _evaluation_set(old.parent)
    rows = images.indices_of("test")
    right = []
    for folder in (old, other):
        with np.load(folder / "golden.npz") as content:
            right.append(content["logits_bc"][rows].argmax(axis=1) == images.labels_b[rows])
    only_old, only_new = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    assert (only_old, only_new) == (5, 1)

    checkpoints = _run(comparison).checkpoints
    assert checkpoints is not None
    assert checkpoints.images == _TEST_IMAGES
    assert {each.sha256 for each in checkpoints.changed} == {images.sha256s[rows[each]] for each in range(1, 7)}
    change = checkpoints.accuracy
    assert change is not None
    assert change.table == (17, 5, 1, 1)
    # By hand: twice the chance of at most one of six fair coins.
    assert change.mcnemar_p == pytest.approx(2 * (1 + 6) / 2**6)
    assert change.mcnemar_p == pytest.approx(stats.binomtest(1, 6).pvalue)
    assert (change.old_accuracy, change.new_accuracy) == (22 / 24, 18 / 24)
    assert change.old_accuracy_interval_95 == pytest.approx(_wilson_by_hand(22, 24))
    assert change.new_accuracy_interval_95 == pytest.approx(_wilson_by_hand(18, 24))
    low, high = change.loss_interval_90
    assert (low, high) == tango_interval(5, 1, 24)
    assert low < 4 / 24 < high
    assert change.margin is change.non_inferiority_p is None
    assert change.macro_f1_loss_interval_90[0] < change.old_macro_f1 - change.new_macro_f1
    assert change.old_macro_f1 - change.new_macro_f1 < change.macro_f1_loss_interval_90[1]


def _wilson_by_hand(right: int, count: int) -> tuple[float, float]:
    z, share = stats.norm.ppf(0.975), right / count
    middle = share + z * z / (2 * count)
    width = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - width) / (1 + z * z / count), (middle + width) / (1 + z * z / count)


def test_candidates_of_two_checkpoints_are_paired_by_their_own_stored_answers(old: Path, other: Path) -> None:
    trial = _trial(compare(old, other))
    answers = []
    for folder in (old, other):
        with np.load(folder / "bench" / f"{_TRIAL}.answers.npz") as content:
            answers.append(content["outputs_bc"].argmax(axis=1))
    assert trial.paired is not None
    assert len(trial.paired.changed) == (answers[0] != answers[1]).sum() == 6
    change = trial.paired.accuracy
    assert change is not None
    assert change.table == (17, 5, 1, 1)
    assert change.margin == _MARGIN_POINTS / 100
    assert change.non_inferiority_p == tango_p(5, 1, 24, 0.25)
    assert 0.05 < change.non_inferiority_p < 0.5


def test_both_verdicts_stand_though_the_new_checkpoint_is_worse_for_parity_is_with_its_own(
    old: Path, other: Path
) -> None:
    comparison = compare(old, other)
    assert comparison.headline() == "0 verdicts lost, 0 gained, 1 unchanged"
    (checkpoints, candidates) = answer_rows(comparison)
    assert checkpoints[1:6] == ["the checkpoints", "24", "6", "17, 5, 1, 1", "0.219"]
    assert candidates[1:6] == [_TRIAL, "24", "6", "17, 5, 1, 1", "0.219"]


def test_changed_answers_in_new_lose_the_pass_that_was_given_to_others(old: Path, new: Path) -> None:
    path = new / "bench" / f"{_TRIAL}.answers.npz"
    with np.load(path) as content:
        arrays = {name: content[name] for name in content.files}
    arrays["outputs_bc"] = arrays["outputs_bc"][:, ::-1]
    np.savez(path, **arrays)
    trial = _trial(compare(old, new))
    assert (trial.change, trial.new_word, trial.paired) == ("lost", "UNTRUSTED", None)
    assert _exit_code(old, new) == 3
    assert "its stored answers were changed since" in CliRunner().invoke(cli, ["compare", str(old), str(new)]).output


def test_changed_answers_in_old_leave_its_word_so_that_a_loss_is_still_seen(old: Path, new: Path) -> None:
    with (new / "bench" / f"{_TRIAL}.answers.npz").open("ab") as stream:
        stream.write(b"more")
    comparison = compare(new, old)
    assert (_trial(comparison).old_word, _trial(comparison).change) == ("PASS", "unchanged")
    assert any("answers were changed" in note for note in _run(comparison).notes)


def test_where_the_answers_are_missing_the_record_stands_and_says_so(old: Path, new: Path) -> None:
    (new / "bench" / f"{_TRIAL}.answers.npz").unlink()
    comparison = compare(old, new)
    assert (_trial(comparison).change, _trial(comparison).paired) == ("unchanged", None)
    (note,) = [note for note in _run(comparison).notes if note.startswith("NEW: ")]
    assert "its answers are not there: the record's own verdict and figures" in note
    _change_record(new, verdict={"word": "INCONCLUSIVE", "step": "evidence", "reason": "as the record has it"})
    assert _trial(compare(old, new)).change == "lost"


def test_a_record_that_claims_a_pass_is_judged_again_by_its_answers(old: Path, new: Path) -> None:
    _change_record(new, margin=0.02)
    trial = _trial(compare(old, new))
    assert (trial.change, trial.new_word) == ("lost", "INCONCLUSIVE")
    assert _run(compare(old, new)).differences == [f"margin: 25 pp -> 2 pp ({_TRIAL})"]


def test_without_the_golden_the_records_stand_and_nothing_is_paired(old: Path, new: Path) -> None:
    (new / "golden.npz").unlink()
    comparison = compare(old, new)
    assert (_trial(comparison).change, _trial(comparison).paired) == ("unchanged", None)
    assert any("the records' own verdicts and figures stand" in note for note in _run(comparison).notes)


def test_an_artifact_that_did_not_travel_along_does_not_change_the_verdict(old: Path, new: Path) -> None:
    shutil.rmtree(new / "export")
    comparison = compare(old, new)
    assert _trial(comparison).change == "unchanged"
    assert _trial(comparison).paired is not None
    assert any("its artifact is not there" in note for note in _run(comparison).notes)


def test_an_artifact_made_again_since_is_not_measured_in_new_and_still_measured_in_old(old: Path, new: Path) -> None:
    _change_record(new, artifact_sha256="0" * 64)
    trial = _trial(compare(old, new))
    assert (trial.change, trial.new_word, trial.paired) == ("missing", "STALE", None)
    assert (_exit_code(old, new), _exit_code(old, new, "--strict")) == (0, 3)
    assert _trial(compare(new, old)).change == "unchanged"


@pytest.mark.parametrize(
    ("changes", "change", "codes"),
    [
        ({"status": "failed", "reason": "the worker died", "verdict": None}, "lost", (3, 3)),
        ({"status": "unavailable", "reason": "no driver", "verdict": None}, "missing", (0, 3)),
    ],
)
def test_a_pass_that_failed_is_lost_and_one_that_could_not_run_is_not_measured(
    old: Path, new: Path, changes: dict[str, Any], change: str, codes: tuple[int, int]
) -> None:
    _change_record(new, **changes)
    trial = _trial(compare(old, new))
    assert (trial.change, trial.new_word) == (change, changes["status"].upper())
    assert (_exit_code(old, new), _exit_code(old, new, "--strict")) == codes


def test_a_trial_without_record_in_new_is_listed_and_only_strict_fails_on_it(old: Path, new: Path) -> None:
    record = new / "bench" / f"{_TRIAL}.json"
    content = json.loads(record.read_text())
    content["trial"]["batch_size"] = 4
    record.with_name("fp32.onnxruntime.b4.t1.json").write_text(json.dumps(content))
    both = compare(old, new)
    assert both.headline() == "0 verdicts lost, 0 gained, 1 unchanged, 1 not measured in OLD"
    assert not both.pass_lost(strict=True)
    shutil.copytree(new.parent, new.parent.parent / "newer")
    newer = new.parent.parent / "newer" / new.name
    (newer / "bench" / "fp32.onnxruntime.b4.t1.json").unlink()
    fewer = compare(new, newer)
    assert fewer.headline() == "0 verdicts lost, 0 gained, 1 unchanged, 1 not measured in NEW"
    assert (_exit_code(new, newer), _exit_code(new, newer, "--strict")) == (0, 3)
    text = markdown(fewer, strict=False)
    assert "Not measured in NEW though PASS in OLD: 1." in text
    assert "PASS -> none" in text


def test_a_fail_that_fails_for_another_reason_is_told_and_no_pass_is_lost(old: Path, new: Path) -> None:
    first, second = new.parent.parent / "first" / "run", new.parent.parent / "second" / "run"
    for folder, step in ((first, "contract"), (second, "numeric")):
        shutil.copytree(new / "bench", folder / "bench")
        _change_record(folder, verdict={"word": "FAIL", "step": step, "reason": f"a {step} reason"})
    comparison = compare(first, second)
    assert comparison.headline() == "0 verdicts lost, 0 gained, 0 unchanged, 1 changed otherwise"
    assert "FAIL (contract) -> FAIL (numeric)" in markdown(comparison, strict=False)
    assert _exit_code(first, second) == 0


def _rehash(path: Path) -> None:
    sidecar = path.with_name(path.name + ".json")
    changed = {"sha256": sha256_from_file(path), "size_bytes": path.stat().st_size}
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changed))


def test_another_split_is_told_and_only_the_common_test_films_are_compared(
    old: Path, other: Path, tmp_path: Path
) -> None:
    shutil.copytree(other.parent, tmp_path / "resplit")
    resplit = tmp_path / "resplit" / other.name
    (rows_path,) = (tmp_path / "resplit" / "evaluation-sets").glob("*/rows.csv")
    rows_path.write_text(rows_path.read_text().replace(",test,", ",train,", 1))
    _rehash(rows_path)
    run = _run(compare(old, resplit))
    assert "test split: 24 films against 23, 23 of them in common" in run.differences
    assert run.checkpoints is not None
    assert (run.checkpoints.images, run.checkpoints.only_old, run.checkpoints.only_new) == (23, 1, 0)
    # The first test film was wrong on both sides.
    assert run.checkpoints.accuracy is not None
    assert run.checkpoints.accuracy.table == (17, 5, 1, 0)
    # NEW's stored answers are to the films of before.
    assert (run.trials[0].change, run.trials[0].paired) == ("lost", None)


def test_other_classes_are_told_and_nothing_is_paired(old: Path, new: Path) -> None:
    content = json.loads((new / "run.json").read_text())
    content["contract"]["class_names"] = ["covid", "normal", "tuberculosis"]
    content["identity"]["data"] = "another fingerprint"
    (new / "run.json").write_text(json.dumps(content))
    run = _run(compare(old, new))
    assert run.differences[0].startswith("class names: ['covid', 'normal', 'pneumonia'] against ['covid', 'normal'")
    assert run.differences[1] == "data set: their fingerprints differ"
    assert run.trials[0].paired is run.checkpoints is None
    assert any(note.startswith("NEW: the records' own verdicts") for note in run.notes)


def test_two_result_files_are_compared_with_each_other_whatever_they_are_of(old: Path, other: Path) -> None:
    record = Path("bench") / f"{_TRIAL}.json"
    comparison = compare(old / record, other / record)
    assert _trial(comparison).paired is not None
    assert _run(comparison).checkpoints is not None
    eight = old.parent / "eight.json"
    content = json.loads((old / record).read_text())
    content["trial"]["batch_size"] = 8
    eight.write_text(json.dumps(content))
    apart = compare(old / record, eight)
    assert _trial(apart).change == "unchanged"
    assert _run(apart).differences == [f"trial: {_TRIAL} -> fp32.onnxruntime.b8.t1 ({_TRIAL})"]
    assert "NEW: the record lies outside its run, so its own verdict and figures stand" in _run(apart).notes
    eight.unlink()


def test_a_result_file_is_compared_with_the_same_trial_of_a_run(old: Path, new: Path) -> None:
    record = json.loads((new / "bench" / f"{_TRIAL}.json").read_text())
    record["trial"]["batch_size"] = 4
    (new / "bench" / "fp32.onnxruntime.b4.t1.json").write_text(json.dumps(record))
    for sides in ((old / "bench" / f"{_TRIAL}.json", new), (new, old / "bench" / f"{_TRIAL}.json")):
        assert compare(*sides).headline() == "0 verdicts lost, 0 gained, 1 unchanged"


def test_folders_of_runs_meet_by_name_and_a_run_on_one_side_only_is_not_measured_on_the_other(
    old: Path, new: Path
) -> None:
    shutil.copytree(new, new.parent / "second")
    comparison = compare(new.parent, old.parent)
    assert [run.name for run in comparison.runs] == [old.name, "second"]
    assert comparison.headline() == "0 verdicts lost, 0 gained, 1 unchanged, 1 not measured in NEW"
    assert (_exit_code(new.parent, old.parent), _exit_code(new.parent, old.parent, "--strict")) == (0, 3)


def test_the_current_folder_may_be_a_side(old: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(new)
    assert _trial(compare(Path(), old)).paired is not None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "holds no trial record"),
        (lambda folder: (folder / "bench").mkdir(parents=True), "holds no trial record"),
        (lambda folder: folder.write_text("{"), "is not a trial record"),
        (lambda folder: folder.write_bytes(b"\xff\xfe"), "is not a trial record"),
    ],
    ids=["nothing", "an empty folder", "a run without records", "half a record", "no text"],
)
def test_a_side_without_results_is_an_error_with_a_hint(
    old: Path, tmp_path: Path, make: Callable[[Path], Any], words: str
) -> None:
    side = tmp_path / "side"
    make(side)
    for sides in ((old, side), (side, old)):
        with pytest.raises(ArtifactError, match=words) as caught:
            compare(*sides)
        assert "harness bench" in caught.value.hint


def test_a_run_and_a_folder_of_runs_are_no_pair(old: Path) -> None:
    with pytest.raises(UsageError, match="is a folder of runs") as caught:
        compare(old.parent, old)
    assert old.name in caught.value.hint


def test_two_records_of_one_trial_in_a_run_are_refused(old: Path, new: Path) -> None:
    shutil.copy(new / "bench" / f"{_TRIAL}.json", new / "bench" / "before.json")
    with pytest.raises(HarnessError, match="two records"):
        compare(old, new)


def test_sides_without_a_trial_in_common_are_wrong_usage_not_a_success(old: Path, new: Path) -> None:
    content = json.loads((new / "bench" / f"{_TRIAL}.json").read_text())
    content["trial"]["threads"] = 16
    (new / "bench" / f"{_TRIAL}.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="no trial in common") as caught:
        compare(old, new)
    assert _TRIAL in caught.value.hint
    assert "fp32.onnxruntime.b2.t16" in caught.value.hint


def test_the_command_prints_tables_json_and_markdown_that_tell_the_same(
    old: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "comment.md"
    monkeypatch.setattr("sys.argv", ["harness", "compare", str(old), str(other), "--markdown", str(path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    shown = capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["harness", "compare", str(old), str(other), "--json"])
    with pytest.raises(SystemExit):
        main()
    content = json.loads(capsys.readouterr().out)
    (run,) = content["runs"]
    p = run["checkpoints"]["accuracy"]["mcnemar_p"]
    text = path.read_text()
    for each in (shown, text):
        assert "Made from synthetic phantoms" in each
        assert "Not for clinical use." in each
        assert content["headline"] in each
        assert f"{p:.3g}" in each
        for film in run["checkpoints"]["changed"]:
            assert film["path"] in each
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = [line.count("|") for line in tables]
    assert widths == [7] * 3 + [13] * 4
    assert content["pass_lost"] is False
    assert run["trials"][0]["old"]["word"] == "PASS"


def test_an_error_of_compare_has_exit_code_1_and_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["harness", "compare", str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    assert "Hint: Give a run directory" in capsys.readouterr().err


def _answers(films: str, labels: list[int], answers: list[int], names: tuple[str, ...] = ("a", "b", "c")) -> Any:
    def array(values: list[int]) -> npt.NDArray[np.int64]:
        return np.array(values, dtype=np.int64)

    return FilmAnswers(
        class_names=names,
        sha256s=tuple(films),
        paths=tuple(f"{film}.png" for film in films),
        labels_b=array(labels),
        answers_b=array(answers),
    )


def test_films_are_paired_by_their_hash_whatever_their_order_and_their_classes_order() -> None:
    was = _answers("pqrs", [0, 1, 2, 0], [0, 1, 2, 1])
    now = _answers("srtq", [2, 1, 0, 0], [2, 1, 0, 1], names=("b", "c", "a"))
    pair = paired(was, now, 0.1)
    assert pair is not None
    assert (pair.images, pair.only_old, pair.only_new, pair.relabelled) == (3, 1, 1, 0)
    assert [(each.path, each.label, each.old, each.new) for each in pair.changed] == [
        ("q.png", "b", "b", "c"),
        ("s.png", "a", "b", "a"),
    ]
    assert pair.accuracy is not None
    assert pair.accuracy.table == (1, 1, 1, 0)


def test_films_without_label_or_with_two_decide_nothing_about_accuracy() -> None:
    was = _answers("pqrs", [-1, 1, 2, -1], [0, 1, 2, 1])
    now = _answers("pqrs", [-1, 0, 2, 0], [1, 1, 2, 0])
    pair = paired(was, now, None)
    assert pair is not None
    assert pair.relabelled == 1
    assert [each.label for each in pair.changed] == ["", "a"]
    assert pair.accuracy is not None
    assert (pair.accuracy.labelled, pair.accuracy.table) == (2, (1, 0, 1, 0))
    unlabelled = _answers("pq", [-1, -1], [0, 0])
    bare = paired(unlabelled, unlabelled, None)
    assert bare is not None
    assert bare.accuracy is None


def test_other_classes_or_other_films_are_not_paired() -> None:
    was = _answers("pq", [0, 1], [0, 1])
    assert paired(was, _answers("xy", [0, 1], [0, 1]), None) is None
    assert paired(was, _answers("pq", [0, 1], [0, 1], names=("a", "b", "z")), None) is None


# --- time ---------------------------------------------------------------------------------------------------------


def _give_times(folder: Path, call_s: float) -> None:
    """Write six processes' times into the records of a run, as a measurement would have."""
    processes = [[call_s * math.exp(0.005 * each)] * 6 for each in (-1.0, -0.6, -0.2, 0.2, 0.6, 1.0)]
    for path in (folder / "bench").glob("*.t1.json"):
        record = json.loads(path.read_text())
        record |= {"mode": "full", "timing": timing_of(processes).model_dump(mode="json")}
        path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("factor", "options", "code", "words"),
    [
        (1.10, [], 0, "slower"),
        (1.10, ["--max-slowdown", "3"], 3, "Slower than OLD by more than 3 %: fp32.onnxruntime.b2.t1."),
        (
            1.10,
            ["--max-slowdown", "20"],
            0,
            "is slower than OLD by more than 20 %.",
        ),
        (1.005, ["--max-slowdown", "0.1"], 0, "Perhaps slower by more than 0.1 %, and not shown"),
        (1.005, ["--max-slowdown", "0.1", "--strict"], 3, "so --strict fails"),
        (0.50, ["--max-slowdown", "0"], 0, "faster"),
    ],
)
def test_a_slowdown_beyond_the_limit_is_exit_code_3(
    old: Path, new: Path, tmp_path: Path, factor: float, options: list[str], code: int, words: str
) -> None:
    before = tmp_path / "before" / old.name
    shutil.copytree(old.parent, before.parent)
    _give_times(before, 0.010)
    _give_times(new, 0.010 * factor)
    markdown_path = tmp_path / "comparison.md"
    shown = CliRunner().invoke(cli, ["compare", str(before), str(new), "--markdown", str(markdown_path), *options])
    assert shown.exit_code == code, shown.output
    assert words in shown.output
    assert f"| {_TRIAL} | 10.00 | {10 * factor:.2f} |" in markdown_path.read_text()


def test_without_times_a_limit_says_that_nothing_is_known(old: Path, new: Path) -> None:
    shown = CliRunner().invoke(cli, ["compare", str(old), str(new), "--max-slowdown", "3"])
    assert shown.exit_code == 0
    assert "nothing is known about speed" in shown.output


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--strict"], 3)])
def test_a_trial_that_new_did_not_time_is_told_and_fails_strictly(
    old: Path, new: Path, tmp_path: Path, options: list[str], code: int
) -> None:
    before = tmp_path / "before" / old.name
    shutil.copytree(old.parent, before.parent)
    _give_times(before, 0.010)
    shown = CliRunner().invoke(cli, ["compare", str(before), str(new), "--max-slowdown", "3", *options])
    assert shown.exit_code == code, shown.output
    assert f"Timed in OLD and not comparable in NEW: {_TRIAL}." in shown.output


def test_times_are_in_the_json(old: Path, new: Path, tmp_path: Path) -> None:
    before = tmp_path / "before" / old.name
    shutil.copytree(old.parent, before.parent)
    _give_times(before, 0.010)
    _give_times(new, 0.011)
    shown = CliRunner().invoke(cli, ["compare", str(before), str(new), "--json"])
    (trial,) = json.loads(shown.output)["runs"][0]["trials"]
    assert trial["time"]["ratio"]["estimate"] == pytest.approx(1.1)
    assert trial["time"]["word"] == "slower"
