"""One artifact in a run of its own, where it may be damaged, and a fresh sidecar that vouches for what came out.

The gate must find a damaged file by its answers: the hash in the sidecar is that of the damaged file, as it is where
the exporter itself has the bug. Mutants that are about the contract say so and leave the sidecar alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.artifacts import Sidecar, sidecar_path, write_artifact
from harness.core.runs import RunDirectory
from harness.data.evaluation_set import EvaluationSet, evaluation_set_folder, evaluation_set_from_folder


class NotApplicableError(Exception):
    """A mutant that this run or machine cannot have, and why."""


@dataclass(frozen=True, kw_only=True)
class Bed:
    """A copy of an honest run with the artifact `file` alone; `other` is a run of another checkpoint and other data."""

    run: RunDirectory
    file: str
    honest: RunDirectory
    other: RunDirectory

    @property
    def path(self) -> Path:
        return self.run.export_folder / self.file

    def sidecar(self) -> Sidecar:
        return Sidecar.model_validate_json(sidecar_path(self.path).read_text(encoding="utf-8"))

    def change_sidecar(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change what the sidecar says, and nothing else."""
        beside = sidecar_path(self.path)
        content = json.loads(beside.read_text(encoding="utf-8"))
        change(content)
        beside.write_text(json.dumps(content), encoding="utf-8")

    def evaluation_set(self) -> EvaluationSet:
        return evaluation_set_of(self.honest)

    def take(self, run: RunDirectory, file: str, *, sidecar: bool) -> None:
        """Put another run's file in the place of ours, with its own sidecar or under ours."""
        shutil.copy(run.export_folder / file, self.path)
        if sidecar:
            shutil.copy(sidecar_path(run.export_folder / file), sidecar_path(self.path))


def evaluation_set_of(run: RunDirectory) -> EvaluationSet:
    record = run.finished_record()
    return evaluation_set_from_folder(
        evaluation_set_folder(run.evaluation_sets, record.identity.data, record.contract.preprocessing)
    )


def made_bed(parent: Path, honest: RunDirectory, other: RunDirectory, file: str) -> Bed:
    """Copy what bench needs of a run, and of its exports the one file; raise NotApplicableError where it has none.

    Evaluation set and checkpoint are links: whoever damages them must put a copy in their place first.
    """
    if not (honest.export_folder / file).is_file() and file != honest.checkpoint.name:
        raise NotApplicableError(f"{file} was not exported here")
    if parent.is_dir():
        shutil.rmtree(parent)
    run = RunDirectory(parent / honest.name)
    run.export_folder.mkdir(parents=True)
    (parent / "evaluation-sets").symlink_to(honest.evaluation_sets.resolve())
    run.checkpoint.symlink_to(honest.checkpoint.resolve())
    for path in (honest.record_path, honest.golden, sidecar_path(honest.golden), sidecar_path(honest.checkpoint)):
        shutil.copy(path, run.folder)
    # An OpenVINO model is two files, each with a sidecar.
    for path in honest.export_folder.glob(f"{file.removesuffix('.xml')}*"):
        shutil.copy(path, run.export_folder)
    return Bed(run=run, file=file, honest=honest, other=other)


def vouch(path: Path, write: Callable[[Path], Any], details: dict[str, Any] | None = None) -> None:
    """Write a file anew, with a sidecar as the export would have written it."""
    old = Sidecar.model_validate_json(sidecar_path(path).read_text(encoding="utf-8"))
    write_artifact(
        path,
        write,
        kind=old.kind,
        parents=old.parents,
        packages=tuple(name for name in old.versions if name != "cxr-harness"),
        contract=old.contract,
        details=old.details | (details or {}),
    )
