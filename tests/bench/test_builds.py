"""Builds of one artifact: each is a trial with its own contract; how far they differ follows from what was stored."""

from __future__ import annotations

import json
import shutil
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.special import softmax

from bench.builds import BUILD_COLUMNS, build_rows, build_spreads, spreads_of_runs
from bench.many import BenchOutcome, BenchRequest, bench_many
from bench.report import write_report
from bench.results import TrialResult, results_from_folder
from bench.trials import deployed_sha256, trials_of_run
from export.many import export_many
from export.request import ExportRequest
from harness.core.artifacts import Kind, read_sidecar
from harness.core.files import sha256_from_file
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory
from tests.bench.timings_made_up import timing_of

_OPENVINO = ("openvino",) if util.find_spec("openvino") else ()


def _bench(folder: Path, *backends: str) -> BenchOutcome:
    request = BenchRequest.from_options(
        backends=backends, batch_sizes=(2,), threads=(1,), margin=1.0, mode="quick", force=False
    )
    return bench_many([RunDirectory(folder)], request, SILENT)


def _exported(folder: Path, builds: int) -> None:
    (outcome,) = export_many([RunDirectory(folder)], ExportRequest(builds=builds), SILENT)
    assert outcome.error is None, outcome.error


def _rehash(path: Path) -> None:
    beside = path.with_name(path.name + ".json")
    changed = {"sha256": sha256_from_file(path), "size_bytes": path.stat().st_size}
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changed))


def _alter_the_head(path: Path, factor: float) -> None:
    model = onnx.load(path)
    (head,) = [each for each in model.graph.initializer if list(each.dims) in ([3, 512], [512, 3])]
    head.CopyFrom(numpy_helper.from_array(factor * numpy_helper.to_array(head), head.name))
    onnx.save(model, path)
    _rehash(path)


@pytest.fixture(scope="module")
def benched(session_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BenchOutcome]:
    """A copy of the run in three builds, the second the very file of the first, the third another model; measured."""
    runs_folder = tmp_path_factory.mktemp("builds") / "runs"
    shutil.copytree(session_run.runs_folder, runs_folder, ignore=shutil.ignore_patterns("*.engine*"))
    folder = runs_folder / session_run.folder.name
    _exported(folder, 3)
    _alter_the_head(folder / "export" / "builds" / "3" / "fp32.onnx", np.float32(1.0001))
    return folder, _bench(folder, "pytorch", "onnxruntime")


@pytest.fixture
def folder(benched: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of that run in its two equal builds, not yet measured, to be changed."""
    runs_folder = tmp_path / "runs"
    shutil.copytree(benched[0].parent, runs_folder, ignore=shutil.ignore_patterns("bench", "3", "report"))
    return runs_folder / benched[0].name


def _of_build(outcome: BenchOutcome, build: int, backend: str = "onnxruntime") -> TrialResult:
    (result,) = [each for each in outcome.results if (each.trial.build, each.trial.backend) == (build, backend)]
    return result


# --- trials -------------------------------------------------------------------------------------------------------


def test_every_build_is_a_trial_of_its_own_after_the_first(benched: tuple[Path, BenchOutcome]) -> None:
    trials = trials_of_run(RunDirectory(benched[0]), ("pytorch", "onnxruntime", "openvino"), (8,), 2)
    assert [trial.identifier for trial in trials] == [
        f"{name}.b8.t2"
        for name in (
            *("eager.pytorch", "fp32.onnxruntime", "fp32.openvino"),
            *("fp32~2.onnxruntime", "fp32~2.openvino", "fp32~3.onnxruntime", "fp32~3.openvino"),
        )
    ]
    assert [trial.build for trial in trials] == [1, 1, 1, 2, 2, 3, 3]
    assert {trial.form for trial in trials} == {trial.precision for trial in trials} == {"fp32"}
    assert trials[-1].artifact == "export/builds/3/fp32.onnx"


def test_engines_and_openvino_models_of_further_builds_keep_the_runtime_in_their_name(tmp_path: Path) -> None:
    second = tmp_path / "run" / "export" / "builds" / "2"
    second.mkdir(parents=True)
    for name in ("int8.tensorrt.engine", "int8.ir.xml", ".int8.onnx.1.tmp", "int8.ir.bin"):
        (second / name).touch()
    trials = trials_of_run(RunDirectory(tmp_path / "run"), ("openvino", "tensorrt"), (1,), 1)
    assert [trial.identifier for trial in trials] == ["int8.ir~2.openvino.b1.t1", "int8.tensorrt~2.tensorrt.b1.t1"]


def test_each_build_was_judged_and_timed_as_its_own_model(benched: tuple[Path, BenchOutcome]) -> None:
    folder, outcome = benched
    assert not outcome.failures
    for build in (1, 2, 3):
        result = _of_build(outcome, build)
        assert result.verdict is not None
        assert result.verdict.word.value != "FAIL", result.verdict
        assert result.timing is not None
        path = folder / result.trial.artifact
        assert result.artifact_sha256 == sha256_from_file(path)
    assert _bench(folder, "pytorch", "onnxruntime").results == outcome.results


def test_a_build_of_another_checkpoint_fails_its_contract_and_the_first_does_not(folder: Path) -> None:
    beside = folder / "export" / "builds" / "2" / "fp32.onnx.json"
    content = json.loads(beside.read_text())
    content["parents"]["checkpoint"] = "0" * 64
    beside.write_text(json.dumps(content))
    outcome = _bench(folder, "onnxruntime")
    stale = _of_build(outcome, 2)
    assert stale.verdict is not None
    assert (stale.verdict.word.value, stale.verdict.step) == ("FAIL", "contract")
    assert "made from another checkpoint" in stale.verdict.reason
    assert stale.timing is None
    assert outcome.verdict_failed(require_pass=False)
    first = _of_build(outcome, 1)
    assert first.verdict is not None
    assert first.verdict.word.value != "FAIL"
    (spread,) = spreads_of_runs([RunDirectory(folder)], outcome.results)
    assert (spread.builds, spread.answered, spread.timed) == ([1, 2], [1], [1])
    assert spread.max_abs_dp is spread.changed_answers is spread.median_spread is spread.largest_accuracy is None
    (row,) = build_rows([spread])
    assert "2 (1 answered, 1 timed)" in row


def test_a_copy_of_the_first_build_does_not_pass_for_a_second(folder: Path) -> None:
    second = folder / "export" / "builds" / "2"
    shutil.copy2(folder / "export" / "fp32.onnx.json", second / "fp32.onnx.json")
    verdict = _of_build(_bench(folder, "onnxruntime"), 2).verdict
    assert verdict is not None
    assert (verdict.word.value, verdict.step) == ("FAIL", "contract")
    assert "folder of build 2, and is by its sidecar of build 1" in verdict.reason


def test_a_file_damaged_in_one_build_fails_that_build(folder: Path) -> None:
    path = folder / "export" / "builds" / "2" / "fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    outcome = _bench(folder, "onnxruntime")
    verdicts = [_of_build(outcome, build).verdict for build in (1, 2)]
    assert [verdict is not None and verdict.step == "contract" for verdict in verdicts] == [False, True]


# --- spreads ------------------------------------------------------------------------------------------------------


def test_identical_builds_have_no_spread_of_answers(benched: tuple[Path, BenchOutcome]) -> None:
    folder, outcome = benched
    two = [_of_build(outcome, build) for build in (1, 2)]
    (spread,) = build_spreads(RunDirectory(folder), "multiclass", two)
    assert (spread.artifact, spread.backend, spread.batch_size, spread.threads) == ("fp32", "onnxruntime", 2, 1)
    assert (spread.builds, spread.answered, spread.timed) == ([1, 2], [1, 2], [1, 2])
    assert (spread.different_files, spread.max_abs_dp, spread.changed_answers) == (1, 0.0, 0)
    assert spread.smallest_accuracy == spread.largest_accuracy is not None


def test_a_build_that_differs_shows_by_how_much(benched: tuple[Path, BenchOutcome]) -> None:
    folder, outcome = benched
    (spread,) = spreads_of_runs([RunDirectory(folder)], outcome.results)
    outputs_nbc, medians_s = [], []
    for mark in ("", "~2", "~3"):
        stored = folder / "bench" / f"fp32{mark}.onnxruntime.b2.t1"
        with np.load(f"{stored}.answers.npz") as content:
            outputs_nbc.append(content["outputs_bc"].astype(np.float64))
        timing = json.loads(Path(f"{stored}.json").read_text())["timing"]
        (instance,) = timing["instances"]
        used = [each for each in instance["rounds"] if each["accepted"]] or instance["rounds"]
        medians_s.append(float(np.median([sample for each in used for sample in each["end_to_end_s"]])))
    p_nbc = [softmax(each, axis=1) for each in outputs_nbc]
    expected = max(float(np.abs(one - other).max()) for one in p_nbc for other in p_nbc)
    assert spread.builds == [1, 2, 3]
    assert spread.different_files == 2
    assert spread.max_abs_dp == pytest.approx(expected, rel=1e-9)
    assert 0 < expected < 1e-3
    assert spread.images == len(p_nbc[0])
    assert (spread.smallest_median_s, spread.largest_median_s) == pytest.approx((min(medians_s), max(medians_s)))
    assert spread.median_spread == pytest.approx((max(medians_s) - min(medians_s)) / sorted(medians_s)[1])


def test_the_report_has_the_builds_in_words_and_in_full(benched: tuple[Path, BenchOutcome]) -> None:
    folder, outcome = benched
    run = RunDirectory(folder)
    write_report(folder.parent, [run])
    (stored,) = json.loads((folder.parent / "report" / "report.json").read_text())["runs"][0]["builds"]
    (spread,) = spreads_of_runs([run], outcome.results)
    assert stored == spread.model_dump(mode="json")
    text = (folder.parent / "report" / "report.md").read_text()
    assert "Builds (`harness export --builds`)" in text
    (row,) = build_rows([spread])
    assert f"| {' | '.join(row[1:])} |" in text.splitlines()
    assert "2 different" in row
    assert len(row) == len(BUILD_COLUMNS)


def test_a_run_of_one_build_has_nothing_to_compare(benched: tuple[Path, BenchOutcome], tmp_path: Path) -> None:
    folder, outcome = benched
    first = [result for result in outcome.results if result.trial.build == 1]
    assert build_spreads(RunDirectory(folder), "multiclass", first) == []
    assert spreads_of_runs([RunDirectory(folder)], first) == []
    runs_folder = tmp_path / "runs"
    others = shutil.ignore_patterns("builds", "*~*")
    shutil.copytree(folder, runs_folder / folder.name, ignore=others)
    write_report(runs_folder, [RunDirectory(runs_folder / folder.name)])
    assert "Builds (" not in (runs_folder / "report" / "report.md").read_text()
    assert json.loads((runs_folder / "report" / "report.json").read_text())["runs"][0]["builds"] == []


def test_the_command_line_prints_the_builds_after_the_trials(benched: tuple[Path, BenchOutcome]) -> None:
    from click.testing import CliRunner

    from harness.cli import cli

    folder = benched[0]
    arguments = ["bench", "--runs", str(folder.parent), "--batch", "2", "--threads", "1", "--quick"]
    shown = CliRunner().invoke(cli, [*arguments, "--backend", "pytorch", "--backend", "onnxruntime"])
    lines = shown.stdout.splitlines()
    assert lines.index("Bench (test split)") < lines.index("Builds")
    assert " ".join(lines[lines.index("Builds") + 1].split()) == " ".join(BUILD_COLUMNS)
    assert "2 different" in lines[lines.index("Builds") + 3]


# --- figures by hand ----------------------------------------------------------------------------------------------

_LOGITS_NBC = np.array(
    [
        [[2, 0, 0], [0, 2, 0], [1, 0, 3], [0, 1, 0]],
        [[2, 0, 0], [0, 2, 0], [4, 0, 3], [0, 1, 0]],
        [[2, 0, 0], [3, 2, 0], [1, 0, 3], [0, 1, 0]],
    ],
    dtype=np.float32,
)


class _Stored:
    """A run's folder with made-up answers and times of three builds."""

    def __init__(self, folder: Path, like: TrialResult) -> None:
        self.run = RunDirectory(folder / "run")
        self.run.bench_folder.mkdir(parents=True)
        self._like = like
        self._hashes: dict[str, str] = {}

    def result(self, build: int, *, form: str = "fp32", median_s: float = 1.0, **changed: Any) -> TrialResult:
        assert self._like.parity is not None
        trial = self._like.trial.model_copy(
            update={
                "run": "run",
                "variant": "fp32" if build == 1 else f"fp32~{build}",
                "artifact": f"export/{build}.onnx",
                "build": build,
                "form": form,
            }
        )
        session = changed.pop("session", "one session")
        timing = timing_of([[median_s]], session=session)
        accuracy = 0.5 + build / 100
        update: dict[str, Any] = {
            "trial": trial,
            "artifact_sha256": f"hash {build}",
            "parity": self._like.parity.model_copy(update={"images": 4, "accuracy": accuracy}),
            "timing": timing,
        }
        return self._like.model_copy(update=update | changed)

    def answer(self, result: TrialResult, **arrays: Any) -> None:
        path = self.run.bench_folder / f"{result.trial.identifier}.answers.npz"
        np.savez(path, **{"rows": np.arange(4)} | arrays)
        self._hashes[result.trial.identifier] = sha256_from_file(path)

    def hashed(self, results: list[TrialResult]) -> list[TrialResult]:
        """Return the results as they would be stored, with the hash of what was answered."""
        return [
            result.model_copy(update={"answers_sha256": self._hashes.get(result.trial.identifier)})
            for result in results
        ]


@pytest.fixture
def stored(benched: tuple[Path, BenchOutcome], tmp_path: Path) -> _Stored:
    return _Stored(tmp_path, _of_build(benched[1], 1))


def test_the_figures_of_three_builds_are_those_done_by_hand(stored: _Stored) -> None:
    results = []
    for build, median_s in ((3, 1.3), (1, 1.0), (2, 1.1)):  # In any order.
        results.append(stored.result(build, median_s=median_s))
        stored.answer(results[-1], outputs_bc=_LOGITS_NBC[build - 1])
    (spread,) = build_spreads(stored.run, "multiclass", stored.hashed(results))
    p_nbc = softmax(_LOGITS_NBC.astype(np.float64), axis=2)
    assert spread.builds == [1, 2, 3]
    assert spread.different_files == 3
    # Build 2 answers the third image otherwise, build 3 the second: no two builds differ in both but those two.
    assert (spread.changed_answers, spread.images) == (2, 4)
    assert spread.max_abs_dp == pytest.approx(max(p_nbc[2, 1, 0] - p_nbc[0, 1, 0], p_nbc[1, 2, 0] - p_nbc[0, 2, 0]))
    assert (spread.smallest_accuracy, spread.largest_accuracy) == (0.51, 0.53)
    assert (spread.smallest_median_s, spread.largest_median_s) == (1.0, 1.3)
    assert spread.median_spread == pytest.approx(0.3 / 1.1)
    (row,) = build_rows([spread])
    assert row[5:7] == ["3", "3 different"]
    assert row[8:] == ["2 of 4", "51.00 to 53.00 %", "1000.00 to 1300.00", "27.3 %"]


def test_independent_labels_are_compared_by_their_own_probabilities(stored: _Stored) -> None:
    results = [stored.result(build) for build in (1, 2)]
    for result, logit in zip(results, (0.5, -0.5), strict=True):
        stored.answer(result, outputs_bc=np.full((4, 3), [logit, 1, -9], dtype=np.float32))
    (spread,) = build_spreads(stored.run, "multilabel", stored.hashed(results))
    assert spread.max_abs_dp == pytest.approx(1 / (1 + np.exp(-0.5)) - 1 / (1 + np.exp(0.5)))
    # The first class above one half answers: 0 in one build, 1 in the other.
    assert spread.changed_answers == 4


def test_probabilities_and_answers_that_a_file_gives_are_taken_as_they_are(stored: _Stored) -> None:
    results = [stored.result(build, form="fp32-prob") for build in (1, 2)]
    for result, p, answer in zip(results, (0.4, 0.6), (1, 0), strict=True):
        p_bc = np.full((4, 3), [p, 0.9 - p, 0.1], dtype=np.float32)
        stored.answer(result, outputs_bc=p_bc, answers_b=np.array([answer, 1, 1, 1]))
    (spread,) = build_spreads(stored.run, "multiclass", stored.hashed(results))
    assert spread.max_abs_dp == pytest.approx(0.2, abs=1e-7)
    assert spread.changed_answers == 1


@pytest.mark.parametrize(
    "damage", ["absent", "no archive", "empty", "truncated", "other images", "fewer images", "no outputs"]
)
def test_answers_that_are_not_there_or_of_other_images_are_left_out_and_counted(stored: _Stored, damage: str) -> None:
    results = [stored.result(build) for build in (1, 2, 3)]
    for result in results:
        stored.answer(result, outputs_bc=_LOGITS_NBC[0])
    path = stored.run.bench_folder / f"{results[2].trial.identifier}.answers.npz"
    if damage == "absent":
        path.unlink()
    elif damage == "no archive":
        path.write_bytes(b"no archive")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "other images":
        stored.answer(results[2], outputs_bc=_LOGITS_NBC[2], rows=np.arange(4, 8))
    elif damage == "fewer images":
        stored.answer(results[2], outputs_bc=_LOGITS_NBC[2][:3])
    else:
        stored.answer(results[2], logits=_LOGITS_NBC[2])
    (spread,) = build_spreads(stored.run, "multiclass", stored.hashed(results))
    assert (spread.answered, spread.timed) == ([1, 2], [1, 2, 3])
    assert (spread.max_abs_dp, spread.changed_answers, spread.largest_accuracy) == (0.0, 0, 0.52)
    assert build_rows([spread])[0][5] == "3 (2 answered)"


def test_times_of_different_sessions_are_not_compared(stored: _Stored) -> None:
    results = [
        stored.result(1, session="2030-01-02"),
        stored.result(2, session="2030-01-01", median_s=9.0),
        stored.result(3, session="2030-01-02", median_s=1.2),
    ]
    (spread,) = build_spreads(stored.run, "multiclass", stored.hashed(results))
    assert (spread.timed, spread.largest_median_s) == ([1, 3], 1.2)
    (spread,) = build_spreads(stored.run, "multiclass", stored.hashed(results[:2]))
    assert (spread.timed, spread.median_spread) == ([1], None)


def test_a_build_that_could_not_run_here_is_still_told_apart_by_its_file(folder: Path, stored: _Stored) -> None:
    unavailable = {"status": "unavailable", "artifact_sha256": None, "parity": None, "timing": None, "verdict": None}
    artifacts = ("export/fp32.onnx", "export/builds/2/fp32.onnx")

    def results() -> list[TrialResult]:
        made = [stored.result(build, **unavailable) for build in (1, 2)]
        return [
            each.model_copy(update={"trial": each.trial.model_copy(update={"artifact": artifact})})
            for each, artifact in zip(made, artifacts, strict=True)
        ]

    (spread,) = build_spreads(RunDirectory(folder), "multiclass", results())
    assert (spread.different_files, spread.answered, spread.timed) == (1, [], [])
    assert build_rows([spread])[0][5:] == ["2 (0 answered, 0 timed)", "identical", "", "", "", "", ""]
    _alter_the_head(folder / artifacts[1], np.float32(1.0001))
    (spread,) = build_spreads(RunDirectory(folder), "multiclass", results())
    assert spread.different_files == 2
    (folder / artifacts[1]).unlink()
    (spread,) = build_spreads(RunDirectory(folder), "multiclass", results())
    assert spread.different_files is None
    assert build_rows([spread])[0][6] == "unknown"


@pytest.mark.skipif(not _OPENVINO, reason="OpenVINO is not installed: the extra `openvino`")
def test_openvino_models_of_one_graph_and_other_weights_are_different_files(folder: Path, stored: _Stored) -> None:
    results = []
    for build, weights in ((1, "a"), (2, "b")):
        path = RunDirectory(folder).build_folder(build) / "fp32.ir.xml"
        path.write_text("<net/>")
        sidecar = json.loads((folder / "export" / "fp32.onnx.json").read_text())
        details = {**sidecar["details"], "weights_sha256": weights, "weights_bytes": 1, "build": build}
        sidecar |= {"kind": "OpenVINO model", "sha256": sha256_from_file(path), "details": details}
        path.with_name("fp32.ir.xml.json").write_text(json.dumps(sidecar))
        found = read_sidecar(path, kind=Kind.OPENVINO_MODEL, remedy="")
        result = stored.result(build, artifact_sha256=deployed_sha256(found))
        artifact = str(path.relative_to(folder))
        results.append(result.model_copy(update={"trial": result.trial.model_copy(update={"artifact": artifact})}))
    (spread,) = build_spreads(RunDirectory(folder), "multiclass", results)
    assert spread.different_files == 2


def test_records_from_before_there_were_builds_are_of_the_first(benched: tuple[Path, BenchOutcome]) -> None:
    path = benched[0] / "bench" / "fp32.onnxruntime.b2.t1.json"
    content = json.loads(path.read_text())
    del content["trial"]["build"]
    assert TrialResult.model_validate(content) == _of_build(benched[1], 1)
    assert {result.trial.build for result in results_from_folder(path.parent)} == {1, 2, 3}
