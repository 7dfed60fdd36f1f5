"""Runs -> ONNX files and engines, each made once: what is up to date is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from export.onnx_export import INPUT_NAME, onnx_from_checkpoint
from export.tensorrt_builder import BatchProfile, BuiltEngine, engine_from_onnx
from harness.core.artifacts import Kind, Sidecar, verified_sidecar, write_artifact
from harness.core.cases import case_named
from harness.core.errors import ArtifactError, HarnessError
from harness.core.progress import Progress
from harness.core.runs import RunDirectory, RunRecord
from harness.core.tensorrt_flavour import Flavour, chosen_flavour, imported_flavour
from harness.data.evaluation_set import (
    EvaluationSet,
    ensured_evaluation_set,
    evaluation_set_folder,
    evaluation_set_from_folder,
)
from harness.data.golden import ensured_golden
from harness.data.manifest import manifest_from_folder

# Enough for any layer of the two networks; TensorRT-RTX bounds the memory of the build with the same number.
_WORKSPACE_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What `harness export` was asked for."""

    engine: bool
    flavour: Flavour | Literal["auto"]
    max_batch_size: int
    force: bool


@dataclass(frozen=True, kw_only=True)
class MadeArtifact:
    """One artifact of one run: `duration_s` is None where it was up to date."""

    path: Path
    size_bytes: int
    duration_s: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class ExportOutcome:
    """One run: what was made before the error, if there was one."""

    run_name: str
    artifacts: tuple[MadeArtifact, ...]
    error: HarnessError | None

    def rows(self) -> list[list[str]]:
        """Cells for the closing table: run, artifact, status, size, seconds, note."""
        rows = [
            [
                self.run_name,
                artifact.path.name,
                "up to date" if artifact.duration_s is None else "made",
                f"{artifact.size_bytes / 1e6:.1f} MB",
                "" if artifact.duration_s is None else f"{artifact.duration_s:.1f}",
                artifact.note,
            ]
            for artifact in self.artifacts
        ]
        if self.error is not None:
            rows.append([self.run_name, "", "FAILED", "", "", self.error.message[:60]])
        return rows

    def summary(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "run": self.run_name,
            "artifacts": [
                {"path": str(made.path), "size_bytes": made.size_bytes, "duration_s": made.duration_s}
                for made in self.artifacts
            ],
            "error": self.error.message if self.error else None,
        }


def export_many(runs: list[RunDirectory], request: ExportRequest, progress: Progress) -> list[ExportOutcome]:
    """Convert every run and return what became of each; one that fails does not end the others.

    Raises BackendError, before anything is made, where an engine is asked for that cannot be built here.
    """
    flavour = chosen_flavour(request.flavour) if request.engine else None
    profile = BatchProfile(optimum=min(8, request.max_batch_size), maximum=request.max_batch_size)
    outcomes = []
    for number, run in enumerate(runs, start=1):
        progress.say(f"[{number}/{len(runs)}] {run.name}")
        made: list[MadeArtifact] = []
        error = None
        try:
            _export_run(run, flavour, profile, request.force, made, progress)
        except HarnessError as harness_error:
            error = harness_error
        outcomes.append(ExportOutcome(run_name=run.name, artifacts=tuple(made), error=error))
    return outcomes


def _export_run(
    run: RunDirectory,
    flavour: Flavour | None,
    profile: BatchProfile,
    force: bool,
    made: list[MadeArtifact],
    progress: Progress,
) -> None:
    record = run.finished_record()
    checkpoint = verified_sidecar(
        run.checkpoint,
        kind=Kind.CHECKPOINT,
        remedy=f"Train again: `harness train {record.identity.case} --force`.",
    )
    same_run = checkpoint.details.get("identity") == record.identity.model_dump(mode="json")
    if checkpoint.contract != record.contract or not same_run:
        raise ArtifactError(
            f"{run.checkpoint} is of another run, another case or preprocessing than run.json says.",
            hint=f"Restore the run's own checkpoint, or train again: `harness train {record.identity.case} --force`.",
        )
    ensured_golden(
        run.golden,
        checkpoint=run.checkpoint,
        evaluation_set=_evaluation_set(run, record, progress),
        contract=record.contract,
        progress=progress,
    )
    onnx_path = run.export_folder / "fp32.onnx"
    parents = {"checkpoint": checkpoint.sha256}

    def make_onnx() -> Sidecar:
        with progress.task(f"{run.name}: ONNX", total=None):
            return onnx_from_checkpoint(
                run.checkpoint,
                onnx_path,
                contract=record.contract,
                parents=parents,
                parameter_count=case_named(record.identity.case).parameter_count,
            )

    onnx_model = _made(onnx_path, Kind.ONNX_MODEL, parents, {}, force, made, make_onnx)
    if flavour is None:
        return
    engine_path = run.export_folder / f"fp32.{flavour}.engine"
    engine_parents = {"onnx": onnx_model.sha256, "checkpoint": checkpoint.sha256}
    options: dict[str, Any] = {
        "flavour": flavour,
        "flavour_version": imported_flavour(flavour).__version__,
        "profile": [profile.minimum, profile.optimum, profile.maximum],
        "workspace_bytes": _WORKSPACE_BYTES,
        "tf32": False,
        "precision": "fp32",
    }

    def make_engine() -> Sidecar:
        return _built_engine(engine_path, onnx_path, record, engine_parents, options, flavour, profile, progress)

    _made(engine_path, Kind.ENGINE, engine_parents, options, force, made, make_engine)


def _evaluation_set(run: RunDirectory, record: RunRecord, progress: Progress) -> EvaluationSet:
    """Open the run's evaluation set; only where it is missing are the films needed again."""
    preprocessing = record.contract.preprocessing
    try:
        return evaluation_set_from_folder(
            evaluation_set_folder(run.evaluation_sets, record.identity.data, preprocessing)
        )
    except ArtifactError:
        manifest = manifest_from_folder(Path(record.manifest).parent)
    if manifest.fingerprint != record.identity.data:
        raise ArtifactError(
            f"The data set at {record.manifest} is no longer the one that {run.name} was trained on.",
            hint="Prepare it again as it was (same films, split and seed), or train anew.",
        )
    return ensured_evaluation_set(run.evaluation_sets, manifest, preprocessing, progress)


def _made(
    path: Path,
    kind: Kind,
    parents: dict[str, str],
    options: dict[str, Any],
    force: bool,
    made: list[MadeArtifact],
    make: Callable[[], Sidecar],
) -> Sidecar:
    """Return the sidecar of an up-to-date artifact, or of one made now."""
    started_s = time.perf_counter()
    sidecar = None if force else _current(path, kind, parents, options)
    duration_s = None
    if sidecar is None:
        sidecar = make()
        duration_s = time.perf_counter() - started_s
    note = ""
    if kind is Kind.ENGINE:
        targets = sidecar.details["targets"]
        assert isinstance(targets, list)
        note = f"for {', '.join(map(str, targets))}"
    made.append(MadeArtifact(path=path, size_bytes=sidecar.size_bytes, duration_s=duration_s, note=note))
    return sidecar


def _current(path: Path, kind: Kind, parents: dict[str, str], options: dict[str, Any]) -> Sidecar | None:
    """Return the sidecar where the file is whole and was made from these parents, options and versions."""
    from importlib import metadata

    try:
        sidecar = verified_sidecar(path, kind=kind, remedy="")
    except ArtifactError:
        return None
    try:
        same_versions = all(metadata.version(name) == version for name, version in sidecar.versions.items())
    except metadata.PackageNotFoundError:
        return None
    same_options = all(sidecar.details.get(name) == value for name, value in options.items())
    return sidecar if sidecar.parents == parents and same_versions and same_options else None


def _built_engine(
    path: Path,
    onnx_path: Path,
    record: RunRecord,
    parents: dict[str, str],
    options: dict[str, Any],
    flavour: Flavour,
    profile: BatchProfile,
    progress: Progress,
) -> Sidecar:
    built: BuiltEngine = engine_from_onnx(
        onnx_path,
        flavour=flavour,
        input_name=INPUT_NAME,
        image_px=record.contract.preprocessing.crop_px,
        profile=profile,
        workspace_bytes=_WORKSPACE_BYTES,
        progress=progress,
    )

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            stream.write(memoryview(built.plan))

    return write_artifact(
        path,
        write,
        kind=Kind.ENGINE,
        parents=parents,
        contract=record.contract,
        details=options
        | {
            "tf32": built.tf32,
            "targets": list(built.targets),
            "build_s": built.build_s,
            "builder_log": list(built.log),
        },
    )
