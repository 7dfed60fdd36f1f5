"""What else an exported file carries: operating point, golden pair, and how int8 was calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from harness.core.artifacts import Sidecar
from harness.core.passport import Passport
from harness.core.variants import variant_from_name
from harness.inspection.report import Section


def passport_section(content: Mapping[str, Any], sidecar: Sidecar | None) -> Section:
    """Compare the passport in the file's own metadata with that of its sidecar, and tell what it says."""
    details: Mapping[str, Any] = {} if sidecar is None else sidecar.details
    rows = _calibration_rows(details)
    facts: dict[str, Any] = {
        name: details[name] for name in ("calibration", "float_layers", "validation_agreement") if name in details
    }
    if "passport" not in details:
        return Section(facts=facts, rows=tuple(rows))
    try:
        passport = Passport.model_validate(details["passport"])
    except ValidationError as error:
        finding = f"The passport in the sidecar is not readable: {error.errors()[0]['msg']}"
        return Section(facts=facts, rows=tuple(rows), findings=(finding,))
    findings: list[str] = []
    metadata, variant = content.get("metadata"), variant_from_name(str(details.get("variant")))
    if metadata and variant is not None:
        findings = [
            f"File against sidecar: {problem}"
            for problem in passport.problems(metadata, variant)
            if any(f"own {key} " in problem for key in ("variant", "operating_point", "golden_pair"))
        ]
    point = passport.operating_point
    facts["operating_point"] = point.model_dump(mode="json")
    facts["golden_pair_logits"] = list(passport.pair.logits)
    rows.append(("temperature", "none" if point.temperature is None else f"{point.temperature:g}"))
    fixed = f", fixed on {point.validation_images} validation images"
    rows.append(("threshold", "none" if point.threshold is None else f"{point.threshold:g} for a finding{fixed}"))
    rows.append(("golden pair", _pair_words(passport)))
    return Section(facts=facts, rows=tuple(rows), findings=tuple(findings))


def _pair_words(passport: Passport) -> str:
    try:
        height, width, _ = passport.pair.pixels_hwc().shape
    except (OSError, ValueError):
        return "its image is not readable"
    logits = ", ".join(f"{value:.4g}" for value in passport.pair.logits)
    return f"a made-up image of {height} x {width} px, logits {logits}"


def _calibration_rows(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    calibration, layers = details.get("calibration"), details.get("float_layers")
    if isinstance(calibration, dict):
        words = f"{calibration.get('images')} images of {calibration.get('split')}, {calibration.get('method')}"
        rows.append(("calibration", words))
    if isinstance(layers, list) and layers:
        rows.append(("kept in float", ", ".join(map(str, layers))))
    agreement = details.get("validation_agreement")
    if isinstance(agreement, float):
        rows.append(("validation", f"{100 * agreement:.1f} % answered as the checkpoint does"))
    return rows
