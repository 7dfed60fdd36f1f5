"""The bench on the session's real run: verdicts, damage, failures, and a report that follows from the records."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from importlib import util
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.special import softmax

from bench.many import BenchOutcome, BenchRequest, bench_many
from bench.report import write_report
from bench.results import results_from_folder
from bench.trials import trials_of_run
from harness.core.errors import ArtifactError, UsageError
from harness.core.files import sha256_from_file
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory
from harness.core.tensorrt_flavour import gpu_driver_present

_HONEST = {"PASS", "INCONCLUSIVE", "NO VERDICT"}
_OPENVINO = ["openvino"] if util.find_spec("openvino") else []


def _request(*backends: str, batch_sizes: tuple[int, ...] = (1,), margin: float = 1.0) -> BenchRequest:
    return BenchRequest.from_options(
        backends=backends, batch_sizes=batch_sizes, threads=(1,), margin=margin, mode="quick", force=False
    )


def _bench(*folders: Path, backends: tuple[str, ...] = ("onnxruntime",), **options: Any) -> BenchOutcome:
    return bench_many([RunDirectory(folder) for folder in folders], _request(*backends, **options), SILENT)


@pytest.fixture(scope="module")
def benched(session_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, BenchOutcome]:
    """A copy of the run measured in every backend at two images a call, and its report."""
    runs_folder = tmp_path_factory.mktemp("benched") / "runs"
    shutil.copytree(session_run.runs_folder, runs_folder)
    folder = runs_folder / session_run.folder.name
    outcome = _bench(folder, backends=(), batch_sizes=(2,))
    write_report(runs_folder, [RunDirectory(folder)])
    return folder, outcome


@pytest.fixture
def folder(copied_run: Callable[[], Any]) -> Path:
    return Path(copied_run().folder)


def _by_backend(outcome: BenchOutcome) -> dict[str, Any]:
    return {result.trial.backend: result for result in outcome.results}


def test_every_backend_of_this_machine_gives_an_honest_word_and_none_fails(benched: tuple[Path, BenchOutcome]) -> None:
    results = _by_backend(benched[1])
    for backend in ("pytorch", "onnxruntime", *_OPENVINO):
        result = results[backend]
        assert result.status == "measured", result.reason
        assert result.verdict.word.value in _HONEST, result.verdict
        assert result.timing is not None
        assert result.description.departures == []
    assert not benched[1].failures
    assert not benched[1].verdict_failed(require_pass=False)


def test_onnx_runtime_agrees_with_the_checkpoint_on_every_image(benched: tuple[Path, BenchOutcome]) -> None:
    parity = _by_backend(benched[1])["onnxruntime"].parity
    assert (parity.images, parity.changed_answers, parity.agreement) == (24, 0, 1.0)
    assert parity.max_abs_dp < 1e-5
    sizes = {f"a batch of {size}" for size in (1, 5, 8, 32)}
    assert parity.repeats_max_abs_dp.keys() == {"another row of the batch", "every row of a batch of it", *sizes}
    assert max(parity.repeats_max_abs_dp.values()) < 1e-5


@pytest.mark.skipif(gpu_driver_present(), reason="a GPU is there")
@pytest.mark.skipif(util.find_spec("tensorrt_rtx") is None, reason="no engine was built")
def test_an_engine_without_a_gpu_is_a_row_that_says_so(benched: tuple[Path, BenchOutcome]) -> None:
    result = _by_backend(benched[1])["tensorrt"]
    assert result.status == "unavailable"
    assert "driver" in result.reason
    assert result.verdict is result.timing is None


def _stored(folder: Path, backend: str) -> tuple[dict[str, Any], np.ndarray]:
    (path,) = (folder / "bench").glob(f"*.{backend}.b2.t1.json")
    with np.load(path.with_suffix("").with_suffix(".t1.answers.npz")) as content:
        return json.loads(path.read_text()), content["outputs_bc"]


def test_the_csv_follows_from_the_stored_answers_and_samples(benched: tuple[Path, BenchOutcome]) -> None:
    folder = benched[0]
    with (folder.parent / "report" / "report.csv").open(newline="") as stream:
        rows = {row["backend"]: row for row in csv.DictReader(stream)}
    (rows_path,) = folder.parent.glob("evaluation-sets/*/rows.csv")
    with rows_path.open(newline="") as stream:
        evaluated = list(csv.DictReader(stream))
    test_rows = [i for i, row in enumerate(evaluated) if row["split"] == "test"]
    labels_b = np.array([int(evaluated[i]["label"]) for i in test_rows])
    with np.load(folder / "golden.npz") as content:
        golden_bc = content["logits_bc"][test_rows]
    eager = _used_rounds(_stored(folder, "pytorch")[0])
    assert len(eager) >= 3
    for backend in ("pytorch", "onnxruntime", *_OPENVINO):
        row, (record, logits_bc) = rows[backend], _stored(folder, backend)
        assert int(row["images"]) == len(logits_bc) == len(labels_b)
        answers_b = logits_bc.argmax(axis=1)
        assert float(row["agreement"]) == pytest.approx((answers_b == golden_bc.argmax(axis=1)).mean())
        assert float(row["accuracy"]) == pytest.approx((answers_b == labels_b).mean())
        assert float(row["reference_accuracy"]) == pytest.approx((golden_bc.argmax(axis=1) == labels_b).mean())
        wide = [softmax(each.astype(np.float64), axis=1) for each in (logits_bc, golden_bc)]
        assert float(row["max_abs_dp"]) == pytest.approx(np.abs(wide[0] - wide[1]).max(), rel=1e-6, abs=1e-15)
        used = _used_rounds(record)
        samples = np.concatenate(list(used.values()))
        assert int(row["calls"]) == len(samples)
        assert float(row["latency_s"]) == pytest.approx(np.median(samples))
        assert float(row["images_per_s"]) == pytest.approx(2 / samples.mean())
        for fraction, column, needed in ((0.9, "p90_s", 36), (0.99, "p99_s", 368)):
            if len(samples) < needed:
                assert row[column] == ""
            else:
                assert float(row[column]) == pytest.approx(np.quantile(samples, fraction, method="inverted_cdf"))
        ratios = [np.median(eager[number]) / np.median(used[number]) for number in used if number in eager]
        assert len(ratios) == len(used)
        # One process each, so the ratio is that pair's: the median of the logarithms over its rounds.
        assert float(row["speed_up_over_eager"]) == pytest.approx(np.exp(np.median(np.log(ratios))))
        assert row["speed_up_low"] == ""


def _used_rounds(record: dict[str, Any]) -> dict[int, np.ndarray]:
    (instance,) = record["timing"]["instances"]
    accepted = {each["number"]: np.array(each["end_to_end_s"]) for each in instance["rounds"] if each["accepted"]}
    return accepted or {each["number"]: np.array(each["end_to_end_s"]) for each in instance["rounds"]}


def test_the_report_is_written_in_three_forms_that_agree(benched: tuple[Path, BenchOutcome]) -> None:
    folder = benched[0] / ".." / "report"
    text = (folder / "report.md").read_text()
    content = json.loads((folder / "report.json").read_text())
    assert "synthetic phantoms" in text
    assert "Not for clinical use" in text
    (run,) = content["runs"]
    for trial in run["trials"]:
        if trial["verdict"]:
            assert f"**{trial['verdict']['word']}**" in text
    tables = [
        list(lines) for is_table, lines in groupby(text.splitlines(), lambda line: line.startswith("|")) if is_table
    ]
    assert any(table[2].startswith("| eager |") for table in tables)
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1, table[0]
    with (folder / "report.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(run["trials"])


def _rehash(path: Path) -> None:
    sidecar = path.with_name(path.name + ".json")
    content = json.loads(sidecar.read_text())
    changed = {"sha256": sha256_from_file(path), "size_bytes": path.stat().st_size}
    sidecar.write_text(json.dumps(content | changed))


def _zero_the_head(path: Path) -> None:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if list(tensor.dims) in ([3, 512], [512, 3]):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
            onnx.save(model, path)
            return
    raise AssertionError("the head was not found")


def test_an_onnx_file_whose_bytes_changed_fails_by_contract_and_is_not_timed(folder: Path) -> None:
    path = folder / "export" / "fp32.onnx"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    outcome = _bench(folder, backends=("onnxruntime", *_OPENVINO))
    for result in outcome.results:
        assert (result.verdict.word.value, result.verdict.step) == ("FAIL", "contract")
        assert "fp32.onnx" in result.verdict.reason
        assert result.timing is None
    assert outcome.verdict_failed(require_pass=False)


def test_a_zeroed_weight_fails_by_its_answers_even_where_the_sidecar_was_forged(folder: Path) -> None:
    path = folder / "export" / "fp32.onnx"
    _zero_the_head(path)
    _rehash(path)
    outcome = _bench(folder, backends=("onnxruntime", *_OPENVINO))
    for result in outcome.results:
        assert (result.verdict.word.value, result.verdict.step) == ("FAIL", "numeric")
        assert result.parity is not None
        assert result.timing is None
    assert outcome.verdict_failed(require_pass=False)
    assert len(outcome.reasons()) == len(outcome.results)


def test_the_contract_inside_the_file_must_be_the_runs(folder: Path) -> None:
    path = folder / "export" / "fp32.onnx"
    model = onnx.load(path)
    for each in model.metadata_props:
        if each.key == "cxr_harness.class_names":
            each.value = '["normal", "covid", "pneumonia"]'
    onnx.save(model, path)
    _rehash(path)
    (result,) = _bench(folder).results
    assert (result.verdict.word.value, result.verdict.step) == ("FAIL", "contract")
    assert "class_names" in result.verdict.reason


def test_a_file_that_is_no_onnx_is_a_failed_row_with_its_log(folder: Path) -> None:
    path = folder / "export" / "fp32.onnx"
    path.write_bytes(b"no ONNX at all")
    _rehash(path)
    outcome = _bench(folder, backends=("pytorch", "onnxruntime", *_OPENVINO))
    results = _by_backend(outcome)
    assert results["pytorch"].status == "measured"
    for backend in ("onnxruntime", *_OPENVINO):
        assert results[backend].status == "failed"
        assert results[backend].timing is None
        assert (folder / "bench" / f"fp32.{backend}.b1.t1.log").is_file()
    assert len(outcome.failures) == 1 + len(_OPENVINO)
    write_report(folder.parent, [RunDirectory(folder)])
    text = (folder.parent / "report" / "report.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| fp32")]
    assert len({line.count("|") for line in table}) == 1
    assert all(line.endswith("|") for line in table)


def test_an_onnx_file_of_unknown_precision_does_not_end_the_bench(folder: Path) -> None:
    for suffix in ("", ".json"):
        shutil.copy(folder / "export" / f"fp32.onnx{suffix}", folder / "export" / f"backup.onnx{suffix}")
    outcome = _bench(folder)
    assert {result.trial.variant for result in outcome.results} >= {"fp32"}


def test_a_file_renamed_to_a_coarser_precision_is_not_judged_by_its_rule(folder: Path) -> None:
    for suffix in ("", ".json"):
        (folder / "export" / f"fp32.onnx{suffix}").rename(folder / "export" / f"int8.onnx{suffix}")
    (result,) = _bench(folder).results
    assert result.trial.precision == "fp32" or result.verdict.word.value == "FAIL"


def test_a_run_without_golden_is_a_failure_and_the_others_go_on(copied_run: Callable[[], Any]) -> None:
    made = copied_run()
    broken = made.runs_folder / "broken"
    shutil.copytree(made.folder, broken)
    (broken / "golden.npz").unlink()
    outcome = _bench(broken, made.folder)
    (failure,) = outcome.failures
    assert failure.name == "broken"
    assert isinstance(failure.error, ArtifactError)
    assert "harness export" in failure.error.hint
    assert [result.trial.run for result in outcome.results] == [made.folder.name]


def test_a_run_that_was_not_exported_is_a_failure_and_the_others_go_on(copied_run: Callable[[], Any]) -> None:
    made = copied_run()
    bare = made.runs_folder / "bare"
    shutil.copytree(made.folder, bare, ignore=shutil.ignore_patterns("export"))
    try:
        outcome = _bench(bare, made.folder)
    except UsageError:
        pytest.fail("the second run was not measured")
    assert [result.trial.run for result in outcome.results] == [made.folder.name]


def test_what_was_measured_and_has_not_changed_is_kept_and_what_changed_is_measured_again(folder: Path) -> None:
    first = _bench(folder)
    again = _bench(folder)
    assert again.results == first.results
    other_margin = _bench(folder, margin=5.0)
    assert other_margin.results[0].margin == 0.05
    assert other_margin.results[0].created >= first.results[0].created
    assert other_margin.results != first.results


def test_a_result_of_another_runtime_version_or_machine_is_measured_again(folder: Path) -> None:
    _bench(folder)
    (path,) = (folder / "bench").glob("*.json")
    record = json.loads(path.read_text())
    record["description"]["version"] = "0.0.1"
    record["machine"]["processor"] = "another processor"
    path.write_text(json.dumps(record))
    (result,) = _bench(folder).results
    assert result.machine["processor"] != "another processor"


def test_a_malformed_record_is_named_in_the_report_and_all_others_are_in_it(
    benched: tuple[Path, BenchOutcome], tmp_path: Path
) -> None:
    runs_folder = tmp_path / "runs"
    shutil.copytree(benched[0].parent, runs_folder)
    for name in ("good", "bad"):
        shutil.copytree(benched[0], runs_folder / name)
    victim = next((runs_folder / "bad" / "bench").glob("*.json"))
    victim.write_text("{")
    with pytest.raises(ArtifactError):
        results_from_folder(victim.parent)
    write_report(runs_folder, [RunDirectory(runs_folder / name) for name in ("bad", "good")])
    content = json.loads((runs_folder / "report" / "report.json").read_text())
    assert victim.name in content["problems"][0]
    assert content["problems"][0].startswith("bad: left out, for they are no records of this version (delete them")
    bad, good = content["runs"]
    assert len(bad["trials"]) == len(good["trials"]) - 1 > 0


def test_a_damaged_evaluation_is_named_in_the_report(benched: tuple[Path, BenchOutcome], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "bad"
    shutil.copytree(benched[0], run, ignore=shutil.ignore_patterns("*.npz"))
    (run / "evaluation.json").write_text("{")
    write_report(tmp_path / "runs", [RunDirectory(run)])
    assert "evaluation.json" in json.loads((tmp_path / "runs" / "report" / "report.json").read_text())["problems"][0]


def test_trials_are_each_artifact_in_each_backend_that_can_load_it(session_run: Any) -> None:
    trials = trials_of_run(RunDirectory(session_run.folder), ("pytorch", "onnxruntime", "openvino"), (1, 8), 2)
    assert [trial.identifier for trial in trials] == [
        f"{name}.b{batch}.t2" for batch in (1, 8) for name in ("eager.pytorch", "fp32.onnxruntime", "fp32.openvino")
    ]


def test_a_golden_of_another_checkpoint_than_the_runs_is_no_yardstick(copied_run: Callable[[], Any]) -> None:
    made = copied_run()
    sidecar = made.folder / "checkpoint.safetensors.json"
    content = json.loads(sidecar.read_text())
    content["details"]["identity"]["seed"] += 1
    sidecar.write_text(json.dumps(content))
    outcome = _bench(made.folder)
    assert outcome.results == []
    assert "another run" in outcome.failures[0].error.message


def test_ctrl_c_at_the_birth_of_a_worker_leaves_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    born: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        """A process whose start is the moment at which Ctrl-C is pressed."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            born.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        _bench(folder)
    (process,) = born
    assert process.returncode == -signal.SIGKILL
