"""How long an artifact took to make, with all that it was made from: what its sidecar and its parents' record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue, ValidationError

from harness.core.artifacts import BUILD_S, CALIBRATION_S, Kind, Sidecar, sidecar_path


@dataclass(frozen=True, kw_only=True)
class MakingTime:
    """Seconds. `build_s` is this artifact's build with its parents', without calibration."""

    build_s: float
    calibration_s: float | None


def making_time_of(artifact: Path) -> MakingTime | None:
    """Return the times of an artifact, None where they are not recorded, as in exports of earlier versions.

    Parents are found by their hash among the ONNX files beside it. The checkpoint is none: without any export it is
    there already.
    """
    sidecar = _sidecar(artifact)
    build_s = None if sidecar is None else _seconds(sidecar.details.get(BUILD_S))
    if sidecar is None or build_s is None:
        return None
    found = (_sidecar(path.with_suffix("")) for path in sorted(artifact.parent.glob("*.onnx.json")))
    known = {each.sha256: each for each in found if each is not None and each.kind is Kind.ONNX_MODEL}
    child = sidecar
    while "onnx" in child.parents:
        parent = known.get(child.parents["onnx"])
        parent_s = None if parent is None else _seconds(parent.details.get(BUILD_S))
        if parent is None or parent_s is None:
            return None
        build_s, child = build_s + parent_s, parent
    return MakingTime(build_s=build_s, calibration_s=_seconds(sidecar.details.get(CALIBRATION_S)))


def _sidecar(artifact: Path) -> Sidecar | None:
    try:
        return Sidecar.model_validate_json(sidecar_path(artifact).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def _seconds(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
