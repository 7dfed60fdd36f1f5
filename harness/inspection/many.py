"""Files -> what each of them is: kind first, then content, contract and parents, each side held against the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.core.artifacts import Kind, Sidecar
from harness.core.errors import ArtifactError, HarnessError
from harness.core.files import sha256_from_file
from harness.inspection.contracts import contract_section
from harness.inspection.engines import engine_section
from harness.inspection.file_kinds import STATE_DICT, claimed_kind, kind_from_bytes, unknown_file
from harness.inspection.lineage import parents_section, run_of_file
from harness.inspection.onnx_content import onnx_section
from harness.inspection.openvino_files import openvino_section
from harness.inspection.passports import passport_section
from harness.inspection.report import Inspection, Section
from harness.inspection.sidecars import sidecar_and_section
from harness.inspection.tensor_files import checkpoint_section, golden_section, state_dict_section

_READERS: Mapping[str, Callable[[Path, Sidecar | None], Section]] = {
    Kind.CHECKPOINT.value: checkpoint_section,
    Kind.GOLDEN.value: golden_section,
    Kind.ONNX_MODEL.value: onnx_section,
    Kind.ENGINE.value: engine_section,
    Kind.OPENVINO_MODEL.value: openvino_section,
    STATE_DICT: state_dict_section,
}
_HINTS = {
    Kind.CHECKPOINT.value: "Restore the run's own checkpoint, or train again: `harness train CASE --force`.",
    Kind.GOLDEN.value: "`harness export RUN` makes it again from the run's checkpoint.",
    Kind.ONNX_MODEL.value: "`harness export RUN` makes it again from the run's checkpoint.",
    Kind.ENGINE.value: "`harness export RUN --trt` makes it again from the run's checkpoint.",
    Kind.OPENVINO_MODEL.value: "`harness export RUN --openvino` makes it again from the run's checkpoint.",
    Kind.OPENVINO_WEIGHTS.value: "`harness export RUN --openvino` makes it again from the run's checkpoint.",
    STATE_DICT: "Give a file that holds a plain state dict: `torch.save(model.state_dict(), FILE)`.",
}
_OTHER_HINT = "Make it again with the command that made it."


def inspect_files(paths: Sequence[Path]) -> list[Inspection]:
    """Inspect every file; one that cannot be inspected does not end the others."""
    inspections = []
    for path in paths:
        try:
            inspections.append(_inspected(path))
        except HarnessError as error:
            inspections.append(Inspection(path=path, sections={}, hint=error.hint, failure=error.message))
        except OSError as error:
            reason = f"{path} cannot be read: {error.strerror or error}."
            inspections.append(Inspection(path=path, sections={}, hint="Check its permissions.", failure=reason))
    return inspections


def _inspected(path: Path) -> Inspection:
    _check_is_file(path)
    sha256, size_bytes = sha256_from_file(path), path.stat().st_size
    sidecar, sidecar_section = sidecar_and_section(path, sha256=sha256, size_bytes=size_bytes)
    claimed, told = claimed_kind(path, sidecar), kind_from_bytes(path)
    kind = told or claimed
    if kind is None:
        raise unknown_file(path)
    hint = _HINTS.get(kind, _OTHER_HINT)
    content = Section(facts={})
    if kind in _READERS:
        try:
            content = _READERS[kind](path, sidecar)
        except HarnessError as error:
            content = Section(facts={}, findings=(error.message,))
            hint = error.hint if kind == STATE_DICT else hint
    run, record, run_findings = run_of_file(path)
    parents = parents_section(path, kind, content.facts, sidecar, record)
    findings = list(run_findings)
    if claimed not in {None, kind}:
        findings.append(
            f"By its {'name' if sidecar is None else 'sidecar'} the file is: {claimed}, by its bytes: {kind}"
        )
    if sidecar_section.facts["state"] == "absent" and run is not None and kind != STATE_DICT:
        findings.append("The file has no sidecar, so nothing says what it was made from")
    sections = {
        "file": Section(
            facts={"kind": kind, "size_bytes": size_bytes, "sha256": sha256},
            rows=(("kind", kind), ("size", _size(size_bytes)), ("sha256", sha256)),
            findings=tuple(findings),
        ),
        "sidecar": sidecar_section,
        "content": content,
        "contract": contract_section(content.facts, sidecar, record),
        "passport": passport_section(content.facts, sidecar),
        "parents": parents,
    }
    return Inspection(path=path, sections=sections, hint=hint)


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder.", hint=f"Name the files in it: `harness inspect {path}/*.onnx`.")
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist.", hint="Check the path.")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB ({size_bytes:,} bytes)" if size_bytes >= 1e5 else f"{size_bytes:,} bytes"
