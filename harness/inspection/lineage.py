"""What a file was made from, and whether that still lies beside it: its run, its checkpoint, its ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.artifacts import Kind, Sidecar
from harness.core.errors import RunError
from harness.core.files import sha256_from_file
from harness.core.runs import RANGES_NAME, RunDirectory, RunRecord, run_folder_of_file
from harness.core.variants import variant_from_name
from harness.inspection.contracts import CHECKPOINT_KEY
from harness.inspection.report import SHORT_HASH, Section

_CHECKPOINT, _ONNX, _RANGES = "checkpoint", "onnx", "ranges"
_NAMES = {_CHECKPOINT: "checkpoint", _ONNX: "ONNX file", _RANGES: "calibration"}


def run_of_file(path: Path) -> tuple[RunDirectory | None, RunRecord | None, list[str]]:
    """Return the run that a file lies in, its record, and what is wrong with that."""
    run = RunDirectory(run_folder_of_file(path))
    if not run.record_path.is_file():
        return None, None, []
    try:
        return run, run.read_record(), []
    except RunError as error:
        return run, None, [error.message]


def parents_section(
    path: Path, kind: str, content: Mapping[str, Any], sidecar: Sidecar | None, record: RunRecord | None
) -> Section:
    """Compare the recorded hashes of a file's parents with the files that should be those."""
    embedded = content.get("metadata", {}).get(CHECKPOINT_KEY)
    parents = dict(sidecar.parents) if sidecar is not None else {}
    findings = []
    if embedded is not None and parents.setdefault(_CHECKPOINT, embedded) != embedded:
        findings.append(
            f"The file says it was made from checkpoint {embedded[:SHORT_HASH]}..., "
            f"its sidecar from {parents[_CHECKPOINT][:SHORT_HASH]}..."
        )
    facts: dict[str, Any] = {}
    rows = []
    for role, sha256 in parents.items():
        candidate = _candidate(path, role)
        state, words = "not looked for", ""
        if role in _NAMES:
            state, words = _compared(path, role, sha256, candidate)
        if state == "another":
            findings.append(f"The file was {words}")
        facts[role] = {"sha256": sha256, "state": state, "path": str(candidate) if candidate else None}
        rows.append((f"from {role}", f"{sha256[:SHORT_HASH]}..." + (f": {words}" if words else "")))
    if kind == Kind.CHECKPOINT.value and sidecar is not None and record is not None:
        findings += _identity_findings(sidecar, record)
    return Section(facts=facts, rows=tuple(rows), findings=tuple(findings))


def _candidate(path: Path, role: str) -> Path | None:
    """Return the file that should be a parent, where there is one."""
    folder = path.parent
    if role == _ONNX:
        places = [folder / f"{_source_variant(path)}.onnx"]
    elif role == _RANGES:
        places = [folder / RANGES_NAME]
    elif role == _CHECKPOINT:
        places = [RunDirectory(each).checkpoint for each in (folder, run_folder_of_file(path))]
    else:
        places = []
    return next((place for place in places if place.is_file()), None)


def _source_variant(path: Path) -> str:
    """Return the variant whose ONNX file this one is made from.

    Engines and OpenVINO models are made from the ONNX file of their own variant; an ONNX file with other ends than
    the checkpoint's from the plain one of its precision; every other precision, and the calibration, from float32.
    """
    stem = path.name.split(".")[0]
    variant = variant_from_name(stem)
    if path.suffix != ".onnx" and variant is not None:
        return stem
    return "fp32" if variant is None or variant.plain else variant.precision


def _compared(path: Path, role: str, sha256: str, candidate: Path | None) -> tuple[str, str]:
    name = _NAMES[role]
    if candidate is None:
        return "not found", f"no {name} found"
    shown = os.path.relpath(candidate, path.parent)
    if sha256_from_file(candidate) == sha256:
        return "matches", f"matches {shown}"
    return "another", f"made from another {name} than {shown}"


def _identity_findings(sidecar: Sidecar, record: RunRecord) -> list[str]:
    ours, theirs = sidecar.details.get("identity"), record.identity.model_dump(mode="json")
    if ours == theirs:
        return []
    odd = [name for name in theirs if not isinstance(ours, dict) or ours.get(name) != theirs[name]]
    return [f"The checkpoint is of another run than run.json says: {', '.join(odd)}"]
