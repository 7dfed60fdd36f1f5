"""What is in an ONNX file: types, shapes, operators, work; and whether its sidecar says the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from harness.core.artifacts import Sidecar
from harness.core.errors import ArtifactError
from harness.core.onnx_files import STANDARD_DOMAINS, model_from_onnx
from harness.core.onnx_flops import FLOP_PER_MAC, flops_from_model
from harness.inspection.onnx_weights import StoredWeights, stored_weights, type_name
from harness.inspection.report import Section

# ONNX calls these by the names of C.
_TYPE_NAMES = {"float": "float32", "double": "float64"}


def onnx_section(path: Path, sidecar: Sidecar | None) -> Section:
    """Read an ONNX file without its external data; raise ArtifactError where it is none."""
    model = model_from_onnx(path)
    weights = stored_weights(model)
    details: dict[str, Any] = {} if sidecar is None else dict(sidecar.details)
    domains = {each.domain: int(each.version) for each in model.opset_import}
    external, external_findings = _external_data(path, model)
    facts: dict[str, Any] = {
        "precision": weights.precision,
        "recorded_precision": details.get("precision"),
        "weight_types": weights.weight_types,
        "activation_types": list(weights.activation_types),
        "opset": domains.get("", domains.get("ai.onnx")),
        "domains": domains,
        "ir_version": int(model.ir_version),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": _values(model, "input"),
        "outputs": _values(model, "output"),
        "parameters": weights.parameters,
        "recorded_parameters": details.get("parameters"),
        "nodes": dict(Counter(_operator(node) for node in model.graph.node).most_common()),
        "external_data": external,
        "metadata": {each.key: each.value for each in model.metadata_props},
    }
    facts |= _work(model)
    return Section(
        facts=facts,
        rows=tuple(_rows(facts, weights)),
        findings=(*_disagreements(facts, details), *external_findings),
    )


def _values(model: Any, side: str) -> list[dict[str, Any]]:
    """Return name, type and shape of the graph's inputs or outputs; free dimensions are names or "?"."""
    stored = {tensor.name for tensor in model.graph.initializer}
    values = []
    for value in getattr(model.graph, side):
        tensor_type = value.type.tensor_type
        name = type_name(tensor_type.elem_type).lower()
        shape = [
            int(dimension.dim_value) if dimension.dim_value > 0 else dimension.dim_param or "?"
            for dimension in tensor_type.shape.dim
        ]
        if value.name not in stored:  # Old files list their weights among the inputs.
            values.append({"name": value.name, "type": _TYPE_NAMES.get(name, name), "shape": shape})
    return values


def _operator(node: Any) -> str:
    return node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"


def _external_data(path: Path, model: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the files beside the model that hold weights, and what is wrong with them; none is opened."""
    from onnx import TensorProto

    tensors = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    names = sorted({entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"})
    files, findings = [], []
    for name in names:
        inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        beside = path.parent / name
        size_bytes = beside.stat().st_size if inside and beside.is_file() else None
        files.append({"path": name, "size_bytes": size_bytes})
        if not inside:
            findings.append(f"Weights are said to lie in {name}, outside the folder of the file")
        elif size_bytes is None:
            findings.append(f"Weights lie in {name}, which is not beside the file")
    return files, findings


def _work(model: Any) -> dict[str, Any]:
    try:
        flops = flops_from_model(model)
    except ArtifactError as error:
        return {"nominal_flop": None, "effective_flop": None, "flop_per_mac": FLOP_PER_MAC, "flop_note": error.message}
    note = f"without {', '.join(flops.not_counted)}" if flops.not_counted else ""
    figures = {"nominal_flop": flops.nominal_flop, "effective_flop": flops.effective_flop}
    return figures | {"flop_per_mac": FLOP_PER_MAC, "flop_note": note}


def _disagreements(facts: Mapping[str, Any], details: Mapping[str, Any]) -> list[str]:
    """Return where the sidecar says otherwise than the file; what it does not say cannot disagree."""
    findings = []
    recorded, found = facts["recorded_precision"], facts["precision"]
    # A sidecar may add how the file was made so, as in int8-u8s8.
    if None not in (recorded, found) and str(recorded).split("-")[0] != found:
        findings.append(f"The sidecar says {recorded}, the file's weights are {found}")
    if details.get("opset") not in (None, facts["opset"]):
        findings.append(f"The sidecar says opset {details['opset']}, the file {facts['opset']}")
    for side in ("input", "output"):
        names = [value["name"] for value in facts[f"{side}s"]]
        if isinstance(details.get(side), str) and [details[side]] != names:
            findings.append(f"The sidecar says {side} {details[side]}, the file {', '.join(names)}")
    return findings


def _rows(facts: Mapping[str, Any], weights: StoredWeights) -> list[tuple[str, str]]:
    recorded = f", {facts['recorded_precision']} in the sidecar" if facts["recorded_precision"] else ""
    domains = [f"{name} {version}" for name, version in facts["domains"].items() if name not in STANDARD_DOMAINS]
    rows = [
        ("precision", f"{_precision(weights)} in the file{recorded}"),
        ("opset", ", ".join([str(facts["opset"]), *domains, f"IR version {facts['ir_version']}"])),
        ("producer", facts["producer"] or "not said"),
    ]
    for side in ("input", "output"):
        for value in facts[f"{side}s"]:
            shape = ", ".join(map(str, value["shape"]))
            rows.append((side, f"{value['name']} {value['type']} [{shape}]"))
    of_checkpoint = ""
    if isinstance(facts["recorded_parameters"], int):
        of_checkpoint = f"; {facts['recorded_parameters']:,} in the checkpoint, before batch norms were folded"
    nodes = facts["nodes"]
    operators = ", ".join(f"{name} {count}" for name, count in nodes.items())
    files = ", ".join(f"{each['path']} ({each['size_bytes']} bytes)" for each in facts["external_data"])
    return [
        *rows,
        ("parameters", f"{facts['parameters']:,} in the file{of_checkpoint}"),
        ("nodes", f"{sum(nodes.values())}: {operators}"),
        ("external data", f"{files}, which no hash of a sidecar covers" if files else "none"),
        ("FLOPs", _flops(facts)),
    ]


def _precision(weights: StoredWeights) -> str:
    if weights.precision is None:
        return "not told by any Conv, Gemm or MatMul"
    types = ", ".join(f"{count} {name}" for name, count in weights.weight_types.items())
    activations = f"; activations {', '.join(weights.activation_types)}" if weights.activation_types else ""
    return f"{weights.precision} (weights of operators: {types}{activations})"


def _flops(facts: Mapping[str, Any]) -> str:
    if facts["nominal_flop"] is None:
        return str(facts["flop_note"])
    note = f", {facts['flop_note']}" if facts["flop_note"] else ""
    return (
        f"{facts['effective_flop'] / 1e9:.3f} G effective, {facts['nominal_flop'] / 1e9:.3f} G nominal for one image "
        f"(FLOPs = {FLOP_PER_MAC} x MACs of Conv, Gemm, MatMul{note}; effective: without taps on zero padding)"
    )
