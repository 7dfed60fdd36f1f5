"""Several builds of one run: each whole and made by itself, each found again, none mistaken for another."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export import engines, many, onnx_variants
from export.builds import compared_builds, lines_on_builds
from export.calibration import Calibration
from export.engine_messages import BuiltPlan
from export.engine_options import BatchProfile, EngineOptions
from export.many import export_many
from export.request import ExportOutcome, ExportRequest, MadeArtifact
from harness.core.artifacts import Kind, Sidecar, verified_sidecar
from harness.core.progress import SILENT
from harness.core.runs import RunDirectory, run_folder_of_file
from harness.inspection.many import inspect_files

_TWO = ExportRequest(
    precisions=("fp32", "int8"),
    calibration=Calibration(count=16),
    openvino=util.find_spec("openvino") is not None,
    engine=util.find_spec("tensorrt_rtx") is not None,
    flavour="rtx",
    profile=BatchProfile(minimum=1, optimum=8, maximum=8),
    engine_options=EngineOptions(targets=("SM86",)),
    triton=True,
    builds=2,
)
_FP32 = ExportRequest(builds=2)


def _export(folder: Path, request: ExportRequest) -> ExportOutcome:
    (outcome,) = export_many([RunDirectory(folder)], request, SILENT)
    return outcome


def _exported(folder: Path, request: ExportRequest) -> ExportOutcome:
    outcome = _export(folder, request)
    assert outcome.error is None, outcome.error
    return outcome


def _names(outcome: ExportOutcome, status: str) -> set[str]:
    return {made.name for made in outcome.artifacts if made.status == status}


def _files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir() if path.is_file()}


def _sidecar(path: Path) -> Sidecar:
    return Sidecar.model_validate_json(path.with_name(path.name + ".json").read_text())


@pytest.fixture(scope="module")
def two_builds(session_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportOutcome]:
    """A copy of the session's run with all kinds of exports in two builds; not to be changed."""
    runs_folder = tmp_path_factory.mktemp("two-builds") / "runs"
    shutil.copytree(session_run.runs_folder, runs_folder)
    folder = runs_folder / session_run.folder.name
    return folder, _exported(folder, _TWO)


@pytest.fixture
def folder(two_builds: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of that run with float32 in two builds alone, to be changed."""
    others = shutil.ignore_patterns("int8*", "*.ir.*", "*.engine*", "triton")
    shutil.copytree(two_builds[0].parent, tmp_path / "runs", ignore=others)
    return tmp_path / "runs" / two_builds[0].name


def test_the_second_build_has_every_file_of_the_first_and_shares_none_with_it(
    two_builds: tuple[Path, ExportOutcome],
) -> None:
    first, second = _files(two_builds[0] / "export"), _files(two_builds[0] / "export" / "builds" / "2")
    assert set(first) == set(second)
    assert {"fp32.onnx", "int8.onnx", "int8-ranges.json", "int8-ranges.json.json"} <= set(second)
    assert not {path.stat().st_ino for path in first.values()} & {path.stat().st_ino for path in second.values()}
    assert list((two_builds[0] / "export").glob("**/.*")) == []


def test_every_sidecar_says_its_build_and_has_its_parents_in_the_same_one(
    two_builds: tuple[Path, ExportOutcome],
) -> None:
    run = RunDirectory(two_builds[0])
    for build in (1, 2):
        artifacts = [
            path for name, path in _files(run.build_folder(build)).items() if f"{name}.json" in _files(path.parent)
        ]
        assert len(artifacts) >= 3
        onnx = {path.name: _sidecar(path).sha256 for path in artifacts if path.suffix == ".onnx"}
        for path in artifacts:
            sidecar = _sidecar(path)
            assert sidecar.details["build"] == build, path
            source = path.name.split(".")[0]
            if sidecar.kind in {Kind.ENGINE, Kind.OPENVINO_MODEL}:
                assert sidecar.parents["onnx"] == onnx[f"{source}.onnx"]
            if sidecar.kind is Kind.OPENVINO_MODEL:
                first = _sidecar(run.export_folder / path.name)
                # OpenVINO numbers the nodes that it adds on through a process, so the .xml is another; the weights not.
                assert sidecar.details["weights_sha256"] == first.details["weights_sha256"]
            if path.name == "int8.onnx":
                ranges = _sidecar(path.with_name("int8-ranges.json"))
                assert sidecar.parents["ranges"] == ranges.sha256


def test_the_table_names_the_files_of_further_builds_by_their_folder(two_builds: tuple[Path, ExportOutcome]) -> None:
    rows = {row[1]: row for row in two_builds[1].rows()}
    assert "builds/2/fp32.onnx" in rows
    assert rows["builds/2/int8.onnx"][5] == rows["int8.onnx"][5]
    assert rows["builds/2/fp32.onnx"][2] == "made"
    assert {len(row) for row in rows.values()} == {6}


def test_what_the_exporter_and_the_quantiser_make_twice_is_the_same_to_the_byte_and_told(
    two_builds: tuple[Path, ExportOutcome],
) -> None:
    outcome = two_builds[1]
    compared = {each["artifact"]: each for each in outcome.summary()["builds"]}
    for name in ("fp32.onnx", "int8.onnx", "int8-ranges.json"):
        assert compared[name] == {"artifact": name, "builds": [1, 2], "different_files": 1, "identical": True}
    text = "\n".join(outcome.lines())
    assert all(name in text for name in compared), "every artifact is spoken of"
    same = next(line for line in outcome.lines() if "byte-identical: fp32.onnx (2 builds)" in line)
    assert "int8.onnx (2 builds)" in same


def test_triton_serves_the_first_build_only(two_builds: tuple[Path, ExportOutcome]) -> None:
    folder, outcome = two_builds
    served = [made for made in outcome.artifacts if made.path.parent.name == "triton"]
    assert len({made.path for made in served}) == len(served)
    model = folder.parent / "triton" / f"{folder.name}.fp32.onnxruntime" / "1" / "model.onnx"
    assert model.stat().st_ino == (folder / "export" / "fp32.onnx").stat().st_ino


def test_a_file_of_a_further_build_is_inspected_as_one_of_its_run(two_builds: tuple[Path, ExportOutcome]) -> None:
    path = two_builds[0] / "export" / "builds" / "2" / "int8.onnx"
    (inspection,) = inspect_files([path])
    assert inspection.findings == ()
    parents = inspection.sections["parents"].facts
    assert {role: parent["state"] for role, parent in parents.items()} == dict.fromkeys(parents, "matches")
    assert inspection.sections["sidecar"].facts["build"] == 2
    assert Path(parents["onnx"]["path"]).parent == path.parent
    assert run_folder_of_file(path) == run_folder_of_file(two_builds[0] / "run.json") == two_builds[0].absolute()


def test_the_same_number_again_does_nothing_a_smaller_leaves_the_others_and_force_redoes_all(folder: Path) -> None:
    paths = [path for path in (folder / "export").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert _names(_exported(folder, _FP32), "made") == set()

    fewer = _exported(folder, ExportRequest())
    assert {made.build for made in fewer.artifacts} == {1}
    assert fewer.summary()["left_builds"] == [2]
    (line,) = fewer.lines()
    assert "export/builds/2" in line
    assert "left as it was" in line
    assert {path: path.stat().st_mtime_ns for path in paths} == before

    assert _names(_exported(folder, replace(_FP32, force=True)), "made") == {"fp32.onnx", "builds/2/fp32.onnx"}
    assert _names(_exported(folder, replace(_FP32, builds=3)), "made") == {"builds/3/fp32.onnx"}
    assert RunDirectory(folder).further_builds() == [2, 3]


def test_a_copy_of_another_build_is_made_anew(folder: Path) -> None:
    second = folder / "export" / "builds" / "2"
    for name in ("fp32.onnx", "fp32.onnx.json"):
        shutil.copy2(folder / "export" / name, second / name)
    assert _names(_exported(folder, _FP32), "made") == {"builds/2/fp32.onnx"}
    assert _sidecar(second / "fp32.onnx").details["build"] == 2


def test_damage_in_one_build_redoes_that_build_alone(folder: Path) -> None:
    path = folder / "export" / "builds" / "2" / "fp32.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert _names(_exported(folder, _FP32), "made") == {"builds/2/fp32.onnx"}
    assert path.read_bytes() == content


def test_exports_from_before_there_were_builds_are_the_first_and_up_to_date(folder: Path) -> None:
    beside = folder / "export" / "fp32.onnx.json"
    content = json.loads(beside.read_text())
    del content["details"]["build"]
    beside.write_text(json.dumps(content))
    assert _names(_exported(folder, _FP32), "up to date") == {"fp32.onnx", "builds/2/fp32.onnx"}


def test_an_interrupted_second_build_goes_on_where_it_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = replace(_FP32, precisions=("fp32", "fp16", "bf16"))
    second = folder / "export" / "builds" / "2"
    save = onnx_variants.save_and_check

    def interrupted(model: Any, path: Path) -> None:
        save(model, path)
        if path.parent == second and "bf16" in path.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(onnx_variants, "save_and_check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _export(folder, request)
    monkeypatch.undo()
    assert not (second / "bf16.onnx").exists()
    # What a kill would have left besides.
    (second / ".scratch-killed").mkdir()
    (second / ".scratch-killed" / "half.onnx").write_bytes(b"half")
    (second / ".bf16.onnx.999999999.tmp").write_bytes(b"half")

    outcome = _exported(folder, request)
    assert _names(outcome, "made") == {"builds/2/bf16.onnx"}
    assert list(second.glob(".*")) == []
    assert [each.identical for each in compared_builds(outcome.artifacts)] == [True] * 3


def test_an_error_in_the_second_build_leaves_the_first_whole_and_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.core.errors import ExportError

    save = onnx_variants.save_and_check

    def refused(model: Any, path: Path) -> None:
        if path.parent.parent.name == "builds":
            raise ExportError("No second one.", hint="None.")
        save(model, path)

    monkeypatch.setattr(onnx_variants, "save_and_check", refused)
    outcome = _export(folder, replace(_FP32, precisions=("fp16",)))
    assert isinstance(outcome.error, ExportError)
    assert "fp16.onnx" in _names(outcome, "made")
    assert outcome.rows()[-1][2] == "FAILED"
    verified_sidecar(folder / "export" / "fp16.onnx", kind=Kind.ONNX_MODEL, remedy="")


def test_only_the_first_build_has_the_timing_cache_and_engines_that_differ_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for TensorRT, which needs a GPU: it notes the cache it is given, and varies as TensorRT may."""
    caches: dict[Path, Path | None] = {}

    def built(onnx_path: Path, *, options: EngineOptions, scratch: Path, **_: Any) -> tuple[Path, BuiltPlan]:
        assert onnx_path.is_file()
        caches[onnx_path.parent] = options.timing_cache
        plan_path = scratch / "engine.plan"
        plan_path.write_text(f"plan {len(caches)}")
        return plan_path, BuiltPlan(
            version="11.4", targets=["this GPU"], tf32=False, build_s=1.0, log=[], address_randomisation="off"
        )

    monkeypatch.setattr(many, "chosen_flavour", lambda _: "tensorrt")
    monkeypatch.setattr(engines, "imported_flavour", lambda _: SimpleNamespace(__version__="11.4"))
    monkeypatch.setattr(engines, "plan_from_onnx", built)
    cache = folder / "timings"
    request = replace(_FP32, builds=3, engine=True, engine_options=EngineOptions(timing_cache=cache))
    outcome = _exported(folder, request)
    run = RunDirectory(folder)
    assert caches == {run.build_folder(1): cache, run.build_folder(2): None, run.build_folder(3): None}
    (line,) = [line for line in outcome.lines() if "not byte-identical" in line]
    assert "fp32.tensorrt.engine (3 builds), 3 different files" in line
    # The cache is no part of what makes an engine up to date, in any build.
    assert _names(_exported(folder, request), "made") == set()


def test_the_weights_of_an_openvino_model_count_as_its_bytes(tmp_path: Path) -> None:
    made = [
        MadeArtifact(
            path=tmp_path / str(build) / "fp32.ir.xml",
            size_bytes=1,
            duration_s=None,
            build=build,
            sha256s=("same", weights),
        )
        for build, weights in ((1, "a"), (2, "b"), (3, "a"))
    ]
    (compared,) = compared_builds(made)
    assert (compared.builds, compared.different_files, compared.identical) == ((1, 2, 3), 2, False)
    assert lines_on_builds("run", [], []) == []


def test_the_command_line_tells_people_and_machines(folder: Path) -> None:
    from click.testing import CliRunner

    from harness.cli import cli

    arguments = ["export", folder.name, "--runs", str(folder.parent), "--builds", "2"]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.output
    assert f"{folder.name}: byte-identical: fp32.onnx (2 builds)." in shown.stdout.splitlines()
    assert "builds/2/fp32.onnx" in shown.stdout
    (summary,) = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert [made["build"] for made in summary["artifacts"]] == [1, 2]
    assert summary["builds"][0]["identical"] is True
    assert summary["left_builds"] == []
    assert CliRunner().invoke(cli, [*arguments[:-1], "0"]).exit_code != 0


@pytest.mark.parametrize("name", ["1", "0", "02", "-2", "two", "2.onnx", "99999999999"])
def test_a_folder_that_is_no_build_is_left_out(tmp_path: Path, name: str) -> None:
    builds = tmp_path / "export" / "builds"
    for folder in ("10", "2", name):
        (builds / folder).mkdir(parents=True)
    (builds / "7").write_text("a file")
    assert RunDirectory(tmp_path).further_builds() == [2, 10]
    assert RunDirectory(tmp_path / "nothing").further_builds() == []
