"""What a file claims to be, by its sidecar or its name, and what its first bytes say it is."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

from harness.core.artifacts import Kind
from harness.core.errors import ArtifactError
from harness.core.onnx_files import ONNX_START
from harness.core.rtx_header import HEADER_BYTES, RTX_MAGIC

# A kind of file that the project reads and never writes, so that no sidecar ever names it.
STATE_DICT = "state dict"
_KIND_OF_SUFFIX = {
    ".safetensors": Kind.CHECKPOINT.value,
    ".npz": Kind.GOLDEN.value,
    ".onnx": Kind.ONNX_MODEL.value,
    ".engine": Kind.ENGINE.value,
    ".pth": STATE_DICT,
    ".pt": STATE_DICT,
}
_ZIP_START = b"PK\x03\x04"  # Torch's files and NumPy's.
_PICKLE_START = re.compile(rb"\x80[\x02-\x05]")
# What the library raises for archives that are damaged, encrypted, or of a kind it does not read.
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    KeyError,
    ValueError,
    OSError,
)
_LARGEST_SAFETENSORS_HEADER_BYTES = 100_000_000  # The library's own limit.


def claimed_kind(path: Path, sidecar: Any) -> str | None:
    """Return what the sidecar, or else the file's name, says."""
    return str(sidecar.kind.value) if sidecar is not None else _KIND_OF_SUFFIX.get(path.suffix.lower())


def kind_from_bytes(path: Path) -> str | None:
    """Return what the first bytes say; None where they say nothing, as those of TensorRT's own engines do."""
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    if head.startswith(RTX_MAGIC):
        return Kind.ENGINE.value
    if head.startswith(_ZIP_START):
        return _kind_of_zip(path)
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") <= _LARGEST_SAFETENSORS_HEADER_BYTES:
        return Kind.CHECKPOINT.value
    if _PICKLE_START.match(head):
        return STATE_DICT
    return Kind.ONNX_MODEL.value if ONNX_START.match(head) else None


def _kind_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except BROKEN_ZIP:
        return None
    if any(name.endswith("data.pkl") for name in names):
        return STATE_DICT
    return Kind.GOLDEN.value if "logits_bc.npy" in names else None


def unknown_file(path: Path) -> ArtifactError:
    """Return the error of a file that is of no kind that this project knows."""
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    start = f"its bytes begin with {head[:8]!r}" if head else "it is empty"
    return ArtifactError(
        f"{path} is of no kind that is known here: {start}, and no sidecar says what it is.",
        hint=f"`harness inspect` reads {', '.join(_KIND_OF_SUFFIX)} files and whatever has a sidecar.",
    )
