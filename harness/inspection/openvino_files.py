"""OpenVINO models: the weights lie in a second file, and without the very one the first is of no use."""

from __future__ import annotations

from pathlib import Path

from harness.core.artifacts import Sidecar
from harness.core.files import sha256_from_file
from harness.inspection.report import SHORT_HASH, Section


def openvino_section(path: Path, sidecar: Sidecar | None) -> Section:
    """Hold the weights beside the .xml to the hash that its sidecar has of them."""
    weights = path.with_suffix(".bin")
    recorded = None if sidecar is None else sidecar.details.get("weights_sha256")
    size_bytes = weights.stat().st_size if weights.is_file() else None
    facts = {"weights": {"path": weights.name, "size_bytes": size_bytes, "recorded_sha256": recorded}}
    if size_bytes is None:
        finding = f"The weights, {weights.name}, are not beside the file"
        return Section(facts=facts, rows=(("weights", "missing"),), findings=(finding,))
    row = ("weights", f"{weights.name}, {size_bytes:,} bytes")
    if recorded is not None and (actual := sha256_from_file(weights)) != recorded:
        finding = (
            f"{weights.name} does not hold the weights that the sidecar describes: its sha256 is "
            f"{actual[:SHORT_HASH]}..., recorded is {str(recorded)[:SHORT_HASH]}..."
        )
        return Section(facts=facts, rows=(row,), findings=(finding,))
    return Section(facts=facts, rows=(row,))
