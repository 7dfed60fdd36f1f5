"""Engine files as far as they can be judged without the library and the GPU that run them.

The name tells the flavour, <variant>.<flavour>.engine. The header of TensorRT-RTX tells version, size and targets;
TensorRT's own layout is not documented, so of such a file it is only said what it certainly is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import ArtifactError
from harness.core.onnx_files import ONNX_START
from harness.core.rtx_header import HEADER_BYTES, RTX_MAGIC, RtxHeader, rtx_header
from harness.core.tensorrt_flavour import Flavour

_FILE_NAME = re.compile(r"[^.]+\.(?P<flavour>tensorrt|rtx)\.engine")
_REBUILD = "Build the engine again: `harness export --trt --force`."


def flavour_from_name(path: Path) -> Flavour | None:
    """Return the flavour that a file is named after, None where its name is no engine's."""
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        return None
    return "rtx" if match["flavour"] == "rtx" else "tensorrt"


def checked_engine_header(path: Path, flavour: Flavour) -> RtxHeader | None:
    """Return the header of an RTX engine, None of TensorRT's own; raise ArtifactError for what is no such engine.

    Missing, empty, truncated, an ONNX file under another name, or an engine of the other flavour.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist.", hint="Build it: `harness export --trt`.")
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise ArtifactError(f"{path} is empty.", hint=_REBUILD)
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    if ONNX_START.match(head):
        raise ArtifactError(f"{path} is an ONNX file under the name of an engine.", hint=_REBUILD)
    if flavour == "rtx":
        return rtx_header(head, file_size_bytes=size_bytes)
    if head.startswith(RTX_MAGIC):
        raise ArtifactError(
            f"{path} is an engine of TensorRT-RTX, under the name of one of TensorRT.",
            hint=f"{_REBUILD} TensorRT-RTX's are named <variant>.rtx.engine.",
        )
    return None


def header_differences(header: RtxHeader, details: Mapping[str, Any]) -> list[str]:
    """Return in words where a header contradicts what the sidecar recorded of the engine."""
    differences = []
    flavour = details.get("flavour")
    if flavour not in (None, "rtx"):
        differences.append(f"The sidecar says an engine of {flavour}, the header one of TensorRT-RTX")
    version = details.get("flavour_version")
    if version not in (None, header.version):
        differences.append(f"The sidecar says TensorRT-RTX {version}, the header {header.version}")
    targets = details.get("targets")
    if targets not in (None, list(header.targets)):
        differences.append(f"The sidecar says targets {targets}, the header {list(header.targets)}")
    return differences
