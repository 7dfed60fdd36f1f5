"""Which images judge, what is computed again from stored answers, and the images whose answer changed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from bench import report_records
from bench.gate import Verdict, Word
from bench.judging import with_verdict
from bench.many import BenchOutcome, BenchRequest, bench_many
from bench.report import write_report
from bench.results import Trial, TrialResult, results_from_folder
from harness.core.files import sha256_from_file
from harness.core.lock import run_lock
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory
from tests.bench.timings_made_up import timing_of


def _bench(folder: Path, *, splits: str = "test", batch_size: int = 3, force: bool = False) -> BenchOutcome:
    request = BenchRequest.from_options(
        backends=("onnxruntime",),
        batch_sizes=(batch_size,),
        threads=(1,),
        margin=1.0,
        splits=splits,  # type: ignore[arg-type]
        mode="untimed",
        force=force,
    )
    return bench_many([RunDirectory(folder)], request, SILENT)


def _rows(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.parent.glob("evaluation-sets/*/rows.csv")
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _rehash(path: Path) -> None:
    sidecar = path.with_name(path.name + ".json")
    content = json.loads(sidecar.read_text())
    changed = {"sha256": sha256_from_file(path), "size_bytes": path.stat().st_size}
    sidecar.write_text(json.dumps(content | changed))


def _raise_one_class(path: Path) -> None:
    """Add much to the bias of the head's second class, as a wrong bias correction would."""
    model = onnx.load(path)
    (bias,) = [each for each in model.graph.initializer if list(each.dims) == [3]]
    values = numpy_helper.to_array(bias) + np.array([0, 50, 0], dtype=np.float32)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(model, path)
    _rehash(path)


@pytest.fixture
def folder(copied_run: Callable[[], Any]) -> Path:
    return Path(copied_run().folder)


@pytest.fixture(scope="module")
def spoilt(session_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BenchOutcome]:
    """A run whose ONNX file prefers one class, measured over all splits."""
    runs_folder = tmp_path_factory.mktemp("spoilt") / "runs"
    shutil.copytree(session_run.runs_folder, runs_folder)
    folder = runs_folder / session_run.folder.name
    _raise_one_class(folder / "export" / "fp32.onnx")
    return folder, _bench(folder, splits="all")


@pytest.mark.parametrize(
    ("splits", "deciding"), [("test", ["test"]), ("test+validation", ["test", "validation"]), ("all", None)]
)
def test_the_splits_that_were_asked_for_judge(folder: Path, splits: str, deciding: list[str] | None) -> None:
    (result,) = _bench(folder, splits=splits).results
    found = [row["split"] for row in _rows(folder)]
    counted = sum(split in (deciding or ["test", "validation"]) for split in found)
    assert (result.splits, result.judged_splits) == (splits, tuple(deciding or ["test", "validation"]))
    assert result.parity is not None
    assert (result.parity.images, result.parity.labelled) == (counted, counted)
    assert result.parity.other_images == (found.count("train") if splits == "all" else 0)
    assert result.parity.other_changed_answers == 0


def test_other_splits_are_measured_again_and_the_same_are_kept(folder: Path) -> None:
    first = _bench(folder).results[0].created
    assert _bench(folder).results[0].created == first
    (result,) = _bench(folder, splits="test+validation").results
    assert result.splits == "test+validation"


def test_validation_does_not_judge_a_file_whose_layers_were_chosen_on_it(folder: Path) -> None:
    sidecar = folder / "export" / "fp32.onnx.json"
    content = json.loads(sidecar.read_text())
    content["details"]["float_layers"] = ["node_conv2d"]
    sidecar.write_text(json.dumps(content))
    (result,) = _bench(folder, splits="test+validation").results
    assert result.judged_splits == ("test",)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ({"rows": "test"}, "images that judge it"),
        ({"rows": []}, "does not say which images"),
        ({"rows": [10_000]}, "does not have"),
        ({"rows": [0], "sha256": "0" * 64}, "other images than it says"),
    ],
)
def test_calibration_images_that_judge_or_are_unknown_break_the_contract(
    folder: Path, calibration: dict[str, Any], words: str
) -> None:
    rows = _rows(folder)
    if calibration["rows"] == "test":
        from harness.core.files import sha256_from_text

        chosen = [index for index, row in enumerate(rows) if row["split"] == "test"][:2]
        calibration = {"rows": chosen, "sha256": sha256_from_text("\n".join(sorted(rows[i]["sha256"] for i in chosen)))}
    sidecar = folder / "export" / "fp32.onnx.json"
    content = json.loads(sidecar.read_text())
    content["details"]["calibration"] = calibration
    sidecar.write_text(json.dumps(content))
    (result,) = _bench(folder).results
    assert result.verdict is not None
    assert (result.verdict.word.value, result.verdict.step) == ("FAIL", "contract")
    assert words in result.verdict.reason


def test_every_changed_answer_is_told_with_its_image(spoilt: tuple[Path, BenchOutcome]) -> None:
    folder, outcome = spoilt
    (result,) = outcome.results
    assert result.verdict is not None
    assert result.verdict.word.value == "FAIL"
    rows = _rows(folder)
    judging = [i for split in ("test", "validation") for i, row in enumerate(rows) if row["split"] == split]
    with np.load(folder / "golden.npz") as golden, np.load(next((folder / "bench").glob("*.npz"))) as answers:
        was_b = golden["logits_bc"][judging].argmax(axis=1)
        now_b = answers["outputs_bc"][: len(judging)].argmax(axis=1)
    names = ("covid", "normal", "pneumonia")
    changed = {judging[i]: (names[was_b[i]], names[now_b[i]]) for i in np.flatnonzero(was_b != now_b)}
    assert changed
    with (folder / "bench" / "flips.csv").open(newline="") as stream:
        flips = {int(row["row"]): row for row in csv.DictReader(stream)}
    assert flips.keys() == changed.keys()
    for index, flip in flips.items():
        assert (flip["reference_answer"], flip["answer"]) == changed[index]
        assert flip["answer"] == "normal"
        assert (flip["path"], flip["split"], flip["group"]) == tuple(
            rows[index][name] for name in ("path", "split", "group")
        )
        label = names[int(rows[index]["label"])]
        direction = {flip["reference_answer"]: "lost", "normal": "gained"}.get(label, "both wrong")
        assert (flip["label"], flip["direction"]) == (label, direction)
        assert sum(float(flip[f"p_{name}"]) for name in names) == pytest.approx(1)
        with Image.open(folder / "bench" / "flips" / f"{index}.png") as image:
            assert image.size == (64, 64)
    assert len(list((folder / "bench" / "flips").glob("*.png"))) == len(changed)


def test_images_of_flips_that_are_gone_go_too(folder: Path) -> None:
    whole = (folder / "export" / "fp32.onnx").read_bytes()
    _raise_one_class(folder / "export" / "fp32.onnx")
    _bench(folder)
    assert list((folder / "bench" / "flips").glob("*.png"))
    (folder / "export" / "fp32.onnx").write_bytes(whole)
    _rehash(folder / "export" / "fp32.onnx")
    _bench(folder)
    assert not list((folder / "bench" / "flips").glob("*.png"))
    assert len((folder / "bench" / "flips.csv").read_text().splitlines()) == 1


def _report(folder: Path) -> tuple[str, Any]:
    write_report(folder.parent, [RunDirectory(folder)])
    report = folder.parent / "report"
    return (report / "report.md").read_text(), json.loads((report / "report.json").read_text())


def test_the_report_shows_flips_other_splits_and_the_operating_point(spoilt: tuple[Path, BenchOutcome]) -> None:
    text, content = _report(spoilt[0])
    assert "bench/flips/" in text
    assert "flatters it" in text
    assert "Some finding against normal" in text
    assert "judged on test and validation): " in text
    parity = content["runs"][0]["trials"][0]["parity"]
    for each in parity["classes"]:
        row = f"| fp32.onnxruntime.b3.t1 | {each['name']} | {each['images']} | {each['lost']} | {each['gained']} |"
        assert row in text
    assert len(content["runs"][0]["flips"]) == spoilt[1].results[0].parity.changed_answers  # type: ignore[union-attr]


def test_the_report_computes_the_figures_again_from_the_answers(folder: Path) -> None:
    _bench(folder)
    (path,) = (folder / "bench").glob("*.t1.json")
    (stored,) = results_from_folder(folder / "bench")
    record = json.loads(path.read_text())
    record["parity"]["agreement"] = 0.123
    record["verdict"]["word"] = "PASS"
    path.write_text(json.dumps(record))
    text, content = _report(folder)
    (trial,) = content["runs"][0]["trials"]
    assert stored.parity is not None
    assert trial["parity"] == json.loads(stored.parity.model_dump_json())
    assert trial["verdict"] == json.loads(stored.verdict.model_dump_json())  # type: ignore[union-attr]
    assert "its record differs from what its stored answers give" in text


@pytest.fixture
def several(spoilt: tuple[Path, BenchOutcome], tmp_path: Path) -> Path:
    """A run with changed answers at two batch sizes, as if timed, and a file that is no record."""
    shutil.copytree(spoilt[0].parent, tmp_path / "runs")
    folder = tmp_path / "runs" / spoilt[0].name
    _bench(folder, batch_size=1)
    for path in (folder / "bench").glob("*.t1.json"):
        stored = TrialResult.model_validate_json(path.read_text())
        timing = timing_of([[0.01 * stored.trial.batch_size] * 3] * 2, baseline_s=0.05)
        verdict = Verdict(word=Word.PASS, step="parity", reason="made up")
        path.write_text(stored.model_copy(update={"timing": timing, "verdict": verdict}).model_dump_json())
    (folder / "bench" / "a-broken-record.json").write_text("{}")
    return folder


def _in_processes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every record be read by one of two processes; return the list that notes each pool's size."""
    if sys.platform != "linux":
        pytest.skip("several processes read on Linux only")
    pools: list[int] = []
    forked = report_records._forked

    def noted(processes: int, reader: Any) -> Any:
        pools.append(processes)
        return forked(processes, reader)

    monkeypatch.setattr(report_records, "_MANY", 2)
    monkeypatch.setattr(report_records, "_AT_ONCE", 1)
    monkeypatch.setattr(report_records, "core_count", lambda: 2)
    monkeypatch.setattr(report_records, "_forked", noted)
    return pools


def _never_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, read = os.getpid(), report_records._Reader.read

    def elsewhere(reader: Any, path: Path) -> Any:
        return pytest.fail("read by the report's own process") if os.getpid() == ours else read(reader, path)

    monkeypatch.setattr(report_records._Reader, "read", elsewhere)


def _as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the made-up verdicts stand: what is judged again is told by other tests."""
    monkeypatch.setattr(report_records, "recomputed", lambda _reference, stored: stored)


def test_many_records_are_read_by_several_processes_to_the_same_report(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _as_recorded(monkeypatch)
    _, alone = _report(several)
    assert len(alone["runs"][0]["trials"]) == 2
    assert alone["runs"][0]["trials"][0]["summary"]["calls"] == 18
    assert alone["runs"][0]["flips"]
    assert "a-broken-record.json" in alone["problems"][0]
    pools = _in_processes(monkeypatch)
    _never_read_here(monkeypatch)
    _, together = _report(several)
    assert pools == [2]
    assert together | {"written": ""} == alone | {"written": ""}


def test_a_report_whose_processes_are_killed_is_written_all_the_same(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alone = _report(several)
    pools = _in_processes(monkeypatch)
    ours, read = os.getpid(), report_records._Reader.read

    def killed(reader: Any, path: Path) -> Any:
        if os.getpid() != ours:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(reader, path)

    monkeypatch.setattr(report_records._Reader, "read", killed)
    _, again = _report(several)
    assert pools == [2]
    assert again | {"written": ""} == alone | {"written": ""}


def test_where_a_second_process_cannot_be_started_the_first_is_ended_and_the_report_written(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alone = _report(several)
    pools = _in_processes(monkeypatch)
    fork, started = os.fork, []

    def forking_once() -> int:
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(fork())
        return started[0]

    monkeypatch.setattr(os, "fork", forking_once)
    _, again = _report(several)
    assert pools == [2]
    assert len(started) == 1
    assert again | {"written": ""} == alone | {"written": ""}
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


@pytest.mark.skipif(sys.platform != "linux", reason="several processes read on Linux only")
def test_readers_end_with_a_report_that_is_killed() -> None:
    program = (
        "import os, time\n"
        "from bench import report_records\n"
        "class Slow:\n"
        "    def read(self, path):\n"
        "        os.write(1, f'{os.getpid()}\\n'.encode())\n"
        "        time.sleep(60)\n"
        "with report_records._forked(2, Slow()) as pool:\n"
        "    list(pool.map(report_records._read_here, ['a', 'b']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as report:
        assert report.stdout is not None
        readers = [int(report.stdout.readline()) for _ in range(2)]
        report.kill()
        # Both hold the pipe's other end until they end.
        assert report.stdout.read() == ""
    assert len(set(readers)) == 2


@pytest.mark.parametrize("processes", [False, True], ids=["alone", "by several processes"])
def test_for_pytest_benchmark_all_calls_are_kept(
    several: Path, monkeypatch: pytest.MonkeyPatch, *, processes: bool
) -> None:
    _as_recorded(monkeypatch)
    if processes:
        _in_processes(monkeypatch)
        _never_read_here(monkeypatch)
    target = several.parent / "times.json"
    write_report(several.parent, [RunDirectory(several)], target)
    times = {each["name"]: each["stats"]["data"] for each in json.loads(target.read_text())["benchmarks"]}
    assert times == {f"fp32.onnxruntime.b{size}.t1": [0.01 * size] * 18 for size in (1, 3)}


def test_a_report_that_can_read_nothing_leaves_the_flips_of_an_earlier_one(several: Path) -> None:
    _report(several)
    before = (several / "bench" / "flips.csv").read_text()
    assert before.count("\n") > 1
    for path in (several / "bench").glob("*.json"):
        path.write_text("{}")
    text, content = _report(several)
    assert (several / "bench" / "flips.csv").read_text() == before
    assert list((several / "bench" / "flips").glob("*.png"))
    assert len(content["problems"]) == 1
    assert "`harness bench` measures again" in text


def test_what_another_library_rounds_otherwise_is_no_difference_and_a_figure_is(spoilt: Any) -> None:
    stored = spoilt[1].results[0]

    def with_accuracy(factor: float) -> TrialResult:
        parity = stored.parity.model_copy(update={"accuracy": stored.parity.accuracy * factor})
        return stored.model_copy(update={"parity": parity})  # type: ignore[no-any-return]

    assert with_accuracy(1 + 1e-15) != stored
    assert report_records._alike(with_accuracy(1 + 1e-15), stored)
    assert not report_records._alike(with_accuracy(1 + 1e-6), stored)
    assert not report_records._alike(stored.model_copy(update={"reason": "another"}), stored)


def test_a_record_is_believed_no_more_by_the_bench_than_by_the_report(folder: Path) -> None:
    (measured,) = _bench(folder).results
    (path,) = (folder / "bench").glob("*.t1.json")
    record = json.loads(path.read_text())
    record["verdict"] |= {"word": "PASS", "step": "parity", "reason": "somebody says so"}
    path.write_text(json.dumps(record))
    (kept,) = _bench(folder).results
    assert kept == measured  # Not measured again, and judged again.
    assert json.loads(path.read_text())["verdict"] == json.loads(measured.verdict.model_dump_json())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"answers_sha256": None}, "missing or were changed"),
        ({"judged_splits": ["test", "validation"]}, "do not judge this artifact"),
    ],
)
def test_a_verdict_without_its_answers_or_of_other_images_than_may_judge_is_not_believed(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    _bench(folder)
    (path,) = (folder / "bench").glob("*.t1.json")
    record = json.loads(path.read_text())
    record["verdict"] |= {"word": "PASS", "step": "parity", "reason": "somebody says so"}
    path.write_text(json.dumps(record | changes))
    text, content = _report(folder)
    assert content["runs"][0]["trials"] == []
    assert words in text
    assert "**PASS**" not in text.split("## Parity and speed")[1].split("###")[1]


def test_flips_of_an_earlier_command_stay_while_they_are_true(
    spoilt: tuple[Path, BenchOutcome], tmp_path: Path
) -> None:
    shutil.copytree(spoilt[0].parent, tmp_path / "runs")
    folder = tmp_path / "runs" / spoilt[0].name
    earlier = (folder / "bench" / "flips.csv").read_text().splitlines()[1:]
    assert earlier
    _bench(folder, batch_size=1)
    lines = (folder / "bench" / "flips.csv").read_text().splitlines()[1:]
    assert set(earlier) < set(lines)
    assert {line.split(",")[0] for line in lines} == {"fp32.onnxruntime.b1.t1", "fp32.onnxruntime.b3.t1"}


def test_a_broken_conversion_does_not_draw_every_image_of_a_large_split(
    spoilt: tuple[Path, BenchOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.flips._MOST_THUMBNAILS", 2)
    shutil.copytree(spoilt[0].parent, tmp_path / "runs")
    folder = tmp_path / "runs" / spoilt[0].name
    _report(folder)
    assert len(list((folder / "bench" / "flips").glob("*.png"))) == 2


def test_a_run_that_somebody_writes_is_not_measured(folder: Path) -> None:
    with run_lock(folder):
        outcome = _bench(folder)
    assert outcome.results == []
    (failure,) = outcome.failures
    assert "is in use by" in failure.error.message


def test_changed_answers_are_not_believed(folder: Path) -> None:
    _bench(folder)
    (path,) = (folder / "bench").glob("*.answers.npz")
    with np.load(path) as content:
        arrays = {name: content[name] for name in content.files}
    arrays["outputs_bc"] = arrays["outputs_bc"] + 1
    np.savez(path, **arrays)
    text, content = _report(folder)
    assert content["runs"][0]["trials"] == []
    assert "missing or were changed" in text
    assert _bench(folder).results[0].parity is not None  # Measured again, for the answers are not those of the record.
    assert "missing or were changed" not in _report(folder)[0]


def test_without_the_golden_the_records_own_figures_stand_and_are_said_to(folder: Path) -> None:
    _bench(folder)
    (folder / "golden.npz").unlink()
    text, content = _report(folder)
    assert content["runs"][0]["trials"][0]["parity"] is not None
    assert "were not computed again" in text


@pytest.mark.skipif(util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_a_model_that_cannot_take_another_batch_size_is_still_judged_and_says_so(folder: Path) -> None:
    path = folder / "export" / "fp32.onnx"
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, path)
    _rehash(path)
    (result,) = _bench(folder).results
    assert result.status == "measured"
    assert set(result.refused_batches) == {1, 5, 8, 32}
    assert "a batch of 8 was refused" in _report(folder)[0]


def test_what_is_a_fail_now_has_no_times() -> None:
    trial = Trial(
        run="r", variant="fp32", artifact="a", backend="onnxruntime", precision="fp32", batch_size=1, threads=1
    )
    timed = TrialResult(
        trial=trial,
        status="measured",
        margin=0.01,
        margin_set="",
        mode="full",
        timing=timing_of([[0.01]]),
        twin=timing_of([[0.01]]),
        created="",
        machine={},
    )
    failed = with_verdict(timed, Verdict(word=Word.FAIL, step="numeric", reason="rules changed"), None)
    assert failed.timing is failed.twin is failed.summary is None
    passed = with_verdict(timed, Verdict(word=Word.PASS, step="parity", reason=""), None)
    assert passed.timing == timed.timing
