"""Engines, without the runtime that loads them: the header of TensorRT-RTX, and what the sidecar recorded.

The layout of TensorRT's own plans is not documented, and only TensorRT on the kind of GPU that built one reads it. Of
such an engine the sidecar, held to the file by the hash, is all that can be told here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.core.artifacts import Sidecar
from harness.core.engine_files import flavour_from_name, header_differences
from harness.core.errors import ArtifactError
from harness.core.rtx_header import HEADER_BYTES, RTX_MAGIC, RtxHeader, rtx_header
from harness.inspection.report import Section


def engine_section(path: Path, sidecar: Sidecar | None) -> Section:
    """Read the header where there is one that is understood, and the build from the sidecar."""
    details: dict[str, Any] = {} if sidecar is None else dict(sidecar.details)
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    flavour = _claimed_flavour(path, details)
    findings = []
    header = None
    if head.startswith(RTX_MAGIC) or flavour == "rtx":
        try:
            header = rtx_header(head, file_size_bytes=path.stat().st_size)
        except ArtifactError as error:
            findings.append(error.message)
    elif sidecar is None:
        findings.append(
            "Nothing tells that this is an engine: it has no sidecar, and its bytes do not begin as a TensorRT-RTX "
            f"engine but with {head[:4]!r}. Engines of TensorRT itself can be read only by it, on their GPU."
        )
    if header is not None:
        if flavour not in (None, "rtx") and "flavour" not in details:
            findings.append(f"The name says an engine of {flavour}, the header one of TensorRT-RTX")
        findings += header_differences(header, details)
        flavour = "rtx"
    return Section(
        facts=_facts(flavour, header, details),
        rows=tuple(_rows(flavour, header, details)),
        findings=tuple(findings),
    )


def _claimed_flavour(path: Path, details: dict[str, Any]) -> str | None:
    return str(details["flavour"]) if "flavour" in details else flavour_from_name(path)


def _facts(flavour: str | None, header: RtxHeader | None, details: dict[str, Any]) -> dict[str, Any]:
    names = (
        "flavour_version",
        "precision",
        "profile",
        "tf32",
        "targets",
        "workspace_bytes",
        "build_s",
        "builder_log",
        "builder_s",
    )
    told = None
    if header is not None:
        told = {"version": header.version, "size_bytes": header.size_bytes, "targets": list(header.targets)}
    return {"flavour": flavour, "header": told} | {name: details.get(name) for name in names}


def _rows(flavour: str | None, header: RtxHeader | None, details: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("flavour", f"{flavour or 'not known'} {details.get('flavour_version', '')}")]
    if header is not None:
        rows.append(("header", f"TensorRT-RTX {header.version}, {header.size_bytes:,} bytes"))
        rows.append(("runs on", ", ".join(header.targets)))
    elif flavour == "tensorrt":
        words = "not read: only TensorRT itself, on its GPU, can read it; all below is what the sidecar says"
        rows.append(("header", words))
    if not details:
        return rows
    profile = details.get("profile")
    if isinstance(profile, list) and len(profile) == 3:
        rows.append(("batch", f"{profile[0]} to {profile[2]}, tuned for {profile[1]}"))
    rows.append(("precision", f"{details.get('precision', 'not recorded')} (TF32 {_on_or_off(details.get('tf32'))})"))
    # Sidecars of earlier versions have the builder's seconds under the other name.
    build_s, workspace_bytes = details.get("builder_s", details.get("build_s")), details.get("workspace_bytes")
    if isinstance(build_s, float):
        space = f" with a workspace of {workspace_bytes / 2**30:.3g} GiB" if isinstance(workspace_bytes, int) else ""
        rows.append(("built", f"in {build_s:.1f} s{space}"))
    log = details.get("builder_log")
    if isinstance(log, list):
        rows += [("builder log", str(line)) for line in log] or [("builder log", "no warnings, no errors")]
    return rows


def _on_or_off(flag: Any) -> str:
    return "not recorded" if flag is None else "allowed" if flag else "off"
