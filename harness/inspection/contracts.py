"""The contract of a file: from its own metadata, its sidecar and its run, which must all say the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from harness.core.artifacts import Sidecar
from harness.core.contract import Contract
from harness.core.runs import RunRecord
from harness.inspection.report import SHORT_HASH, Section

_PREFIX = "cxr_harness."
CHECKPOINT_KEY = f"{_PREFIX}checkpoint_sha256"


def contract_section(content: Mapping[str, Any], sidecar: Sidecar | None, record: RunRecord | None) -> Section:
    """Compare all contracts that there are; `content` are the facts that the file's own bytes gave."""
    metadata: Mapping[str, str] = content.get("metadata", {})
    embedded, findings = _contract_from_metadata(metadata)
    recorded = sidecar.contract if sidecar is not None else None
    contract = embedded or recorded
    if contract is None:
        return Section(facts={}, findings=tuple(findings))
    if embedded is not None:
        findings += [
            f"The file's own {key.removeprefix(_PREFIX)} is {metadata.get(key)}, its other metadata make it {value}"
            for key, value in embedded.metadata().items()
            if metadata.get(key) != value
        ]
        if sidecar is not None and recorded is None:
            findings.append("The file carries a contract, its sidecar none")
    if embedded is not None and recorded is not None:
        findings += [f"File against sidecar, {each}" for each in embedded.differences(recorded)]
    if record is not None:
        ours = "File" if embedded is not None else "Sidecar"
        findings += [f"{ours} against run.json, {each}" for each in contract.differences(record.contract)]
    findings += _misfits(content, contract)
    sources = [name for name, found in (("file", embedded), ("sidecar", recorded)) if found is not None]
    facts = contract.model_dump(mode="json") | {
        "preprocessing_sha256": contract.preprocessing.sha256,
        "sources": sources,
    }
    return Section(facts=facts, rows=_rows(contract, sources), findings=tuple(findings))


def _contract_from_metadata(metadata: Mapping[str, str]) -> tuple[Contract | None, list[str]]:
    """Return the contract that ONNX metadata hold, or None and, where there is half of one, why."""
    texts = {field: metadata[_PREFIX + field] for field in Contract.model_fields if _PREFIX + field in metadata}
    if not texts:
        return None, []
    try:
        return Contract.model_validate({field: _value(text) for field, text in texts.items()}), []
    except ValidationError as error:
        details = error.errors()[0]
        where = ".".join(map(str, details["loc"]))
        return None, [f"The contract inside the file is not readable: {where}: {details['msg']}"]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text  # Names travel as they are.


def _misfits(content: Mapping[str, Any], contract: Contract) -> list[str]:
    """Return where shapes cannot be what the contract says: one answer per class, images of the cropped size."""
    findings = []
    classes, side_px = len(contract.class_names), contract.preprocessing.crop_px
    tables = [value["shape"] for value in content.get("outputs", [])]
    tables += [content["shape"]] if "shape" in content else []
    for shape in tables:
        if len(shape) == 2 and isinstance(shape[1], int) and shape[1] != classes:
            findings.append(f"The contract has {classes} classes, the file answers with {shape[1]}")
    for value in content.get("inputs", []):
        image = value["shape"][1:]  # Channels first or last.
        if (
            len(image) == 3
            and all(isinstance(size, int) for size in image)
            and sorted(image) != sorted([3, side_px, side_px])
        ):
            findings.append(f"The contract crops to {side_px} px, the input {value['name']} is {value['shape']}")
    return findings


def _rows(contract: Contract, sources: list[str]) -> tuple[tuple[str, str], ...]:
    made = contract.preprocessing
    synthetic = "; made on synthetic phantoms" if contract.synthetic else ""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (made.mean, made.std))
    return (
        ("case", f"{contract.case}, {contract.label_mode}{synthetic} (said by: {', '.join(sources)})"),
        ("classes", ", ".join(contract.class_names)),
        (
            "preprocessing",
            f"shorter side to {made.resize_px} px, centre crop {made.crop_px} px, {made.interpolation}, "
            f"{made.channel_order}, mean {mean}, std {std}; sha256 {made.sha256[:SHORT_HASH]}...",
        ),
    )
