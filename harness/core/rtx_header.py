"""What the first 64 bytes of a TensorRT-RTX engine say: version, size, and the GPUs it was built for.

The layout was observed on engines of TensorRT-RTX 1.7 and is not documented by NVIDIA. It is used only to
refuse a truncated or foreign file in words, without a GPU and before anything is deserialised, and to record
the targets. The magic stands at 0 and 28, the size at 16, the version at 24, one bit per target at 32.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.core.errors import ArtifactError

HEADER_BYTES = 64
RTX_MAGIC = b"vtrt"

# Bit 6 is set by default and unexplained, so it is not named.
TARGETS = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
_REMEDY = "Build the engine again: `harness export --trt`."


@dataclass(frozen=True, kw_only=True)
class RtxHeader:
    """`targets` are compute capabilities in NVIDIA's short form: SM89 is 8.9."""

    version: str
    size_bytes: int
    targets: tuple[str, ...]


def rtx_header(header: bytes, *, file_size_bytes: int | None) -> RtxHeader:
    """Read the header; with `file_size_bytes`, also compare the size it tells with the size of the file.

    Raises ArtifactError where this is no TensorRT-RTX engine, or not all of one.
    """
    if len(header) < HEADER_BYTES or header[:4] != RTX_MAGIC or header[28:32] != RTX_MAGIC:
        raise ArtifactError(
            f"This is not a TensorRT-RTX engine: {len(header)} bytes that begin with {header[:4]!r}.",
            hint=_REMEDY + " An engine of TensorRT itself is named <variant>.tensorrt.engine.",
        )
    (size_bytes,) = struct.unpack_from("<Q", header, 16)
    (target_bits,) = struct.unpack_from("<I", header, 32)
    if file_size_bytes is not None and size_bytes != file_size_bytes:
        raise ArtifactError(
            f"The TensorRT-RTX engine is truncated or overwritten: its header says {size_bytes} bytes, "
            f"the file has {file_size_bytes}.",
            hint=_REMEDY,
        )
    return RtxHeader(
        version=".".join(str(number) for number in header[24:28]),
        size_bytes=size_bytes,
        targets=tuple(name for bit, name in enumerate(TARGETS) if target_bits & (1 << bit)),
    )
