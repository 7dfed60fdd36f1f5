"""The sidecar of a file: whether it is there, readable, and about this very file."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from harness.core.artifacts import BUILD_S, CALIBRATION_S, Sidecar, sidecar_path
from harness.inspection.report import SHORT_HASH, Section


def sidecar_and_section(path: Path, *, sha256: str, size_bytes: int) -> tuple[Sidecar | None, Section]:
    """Read the sidecar of a file leniently: what is wrong with it is a finding."""
    beside = sidecar_path(path)
    if not beside.is_file():
        return None, Section(
            facts={"state": "absent"}, rows=(("sidecar", "none: all below is what the file itself tells"),)
        )
    try:
        sidecar = Sidecar.model_validate_json(beside.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        finding = f"The sidecar {beside.name} is not readable: {_first_reason(error)}"
        return None, Section(facts={"state": "unreadable"}, rows=(("sidecar", "not readable"),), findings=(finding,))
    findings: tuple[str, ...] = ()
    if sidecar.sha256 != sha256:
        findings = (
            f"The sidecar describes another file: its sha256 is {sidecar.sha256[:SHORT_HASH]}... "
            f"({sidecar.size_bytes} bytes), the file's is {sha256[:SHORT_HASH]}... ({size_bytes} bytes)",
        )
    state = "disagrees" if findings else "agrees"
    build = sidecar.details.get("build")
    build_rows = [] if build is None else [("build", str(build))]
    took_s = {name: sidecar.details.get(name) for name in (BUILD_S, CALIBRATION_S)}
    labels = {BUILD_S: "made in", CALIBRATION_S: "calibrated in"}
    told = {name: value for name, value in took_s.items() if isinstance(value, (int, float))}
    build_rows += [(labels[name], f"{value:.2f} s") for name, value in told.items()]
    return sidecar, Section(
        facts={
            "state": state,
            "kind": sidecar.kind.value,
            "sha256": sidecar.sha256,
            "created": sidecar.created,
            "versions": sidecar.versions,
            "build": build,
            **took_s,
        },
        rows=(
            ("sidecar", f"{state} with the file's hash; made {sidecar.created}"),
            ("versions", ", ".join(f"{name} {version}" for name, version in sidecar.versions.items())),
            *build_rows,
        ),
        findings=findings,
    )


def _first_reason(error: ValidationError | UnicodeDecodeError | OSError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    details = error.errors()[0]
    return f"{'.'.join(map(str, details['loc']))}: {details['msg']}".removeprefix(": ")
