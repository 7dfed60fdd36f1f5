"""Checkpoints, goldens and state dicts: what tensors they hold. Of the first two only the headers are read."""

from __future__ import annotations

import zipfile
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from harness.core.artifacts import Sidecar
from harness.core.cases import CASES
from harness.core.errors import ArtifactError
from harness.inspection.file_kinds import BROKEN_ZIP
from harness.inspection.report import Section

# What batch norm counts while training and no optimiser changes: no parameters, as torch has it.
_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


def checkpoint_section(path: Path, sidecar: Sidecar | None) -> Section:
    """Read names, types and shapes from the header of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            slices = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118  # No mapping.
            shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
            types = Counter(str(each.get_dtype()) for each in slices.values())
    except SafetensorError as error:
        raise ArtifactError(f"The file is not a whole safetensors file: {error}", hint="Restore it.") from error
    facts, rows = _tensor_facts(shapes, types)
    findings = []
    case = CASES.get(sidecar.contract.case) if sidecar is not None and sidecar.contract is not None else None
    if case is not None and case.parameter_count != facts["parameters"]:
        findings.append(
            f"The file has {facts['parameters']:,} parameters, {case.name} has {case.parameter_count:,}: "
            "it is of another network than its sidecar says"
        )
    details = {} if sidecar is None else dict(sidecar.details)
    for name, label in (("initial_weights", "weights from"), ("epoch", "epoch")):
        if name in details:
            facts[name] = details[name]
            rows.append((label, str(details[name])))
    return Section(facts=facts, rows=tuple(rows), findings=tuple(findings))


def state_dict_section(path: Path, sidecar: Sidecar | None) -> Section:  # noqa: ARG001  # One signature for all kinds.
    """Read a torch file without executing any of it; raise DataError where that is not possible."""
    from harness.core.models import what_it_fits
    from harness.core.state_dicts import state_from_file

    state = state_from_file(path)
    facts, rows = _tensor_facts(
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values()),
    )
    facts["fits"] = what_it_fits(state)
    return Section(facts=facts, rows=(*rows, ("fits", facts["fits"])))


def _tensor_facts(shapes: dict[str, tuple[int, ...]], types: Counter[str]) -> tuple[dict[str, Any], list[Any]]:
    statistics = sum(prod(shape) for name, shape in shapes.items() if name.endswith(_STATISTICS))
    parameters = sum(map(prod, shapes.values())) - statistics
    facts: dict[str, Any] = {"tensors": len(shapes), "types": dict(types)}
    facts |= {"parameters": parameters, "statistics": statistics}
    rows = [
        ("tensors", f"{len(shapes)}: " + ", ".join(f"{count} {name}" for name, count in types.most_common())),
        ("parameters", f"{parameters:,}, and {statistics:,} running statistics of batch norms"),
    ]
    return facts, rows


def golden_section(path: Path, sidecar: Sidecar | None) -> Section:
    """Read type and shape of the reference answers, and hold the archive's size to them."""
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive, archive.open("logits_bc.npy") as stream:
            major, _ = np.lib.format.read_magic(stream)
            read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(stream)
            stored_bytes = archive.getinfo("logits_bc.npy").file_size - stream.tell()
    except BROKEN_ZIP as error:
        raise ArtifactError(f"The file is not a whole golden: {error}", hint="Make it again.") from error
    findings = []
    if dtype.hasobject or len(shape) != 2 or stored_bytes != prod(shape) * dtype.itemsize:
        findings.append(f"The file does not hold a table of numbers: {dtype} {list(shape)} in {stored_bytes} bytes")
    images = None if sidecar is None else sidecar.details.get("images")
    if images is not None and shape and images != shape[0]:
        findings.append(f"The sidecar says {images} images, the file has the answers to {shape[0]}")
    details = {} if sidecar is None else sidecar.details
    facts = {"shape": list(shape), "type": str(dtype), "precision": details.get("precision")}
    facts["device"] = details.get("device")
    how = f", computed in {facts['precision']} on {facts['device']}" if facts["precision"] else ""
    text = f"logits_bc {dtype} {list(shape)}: one row per image, one column per class{how}"
    return Section(facts=facts, rows=(("answers", text),), findings=tuple(findings))
