"""The header of a TensorRT-RTX engine tells a whole engine from a truncated and from a foreign one."""

from __future__ import annotations

import struct

import pytest

from harness.core.errors import ArtifactError
from harness.core.rtx_header import HEADER_BYTES, rtx_header


def _header(*, size_bytes: int = 1000, target_bits: int = 126, version: bytes = bytes([1, 7, 1, 116])) -> bytes:
    """Lay out a header the way the builder of TensorRT-RTX 1.7 was seen to (see test_tensorrt_builder.py)."""
    header = b"vtrt" + bytes(12) + struct.pack("<Q", size_bytes) + version + b"vtrt"
    return (header + struct.pack("<I", target_bits)).ljust(HEADER_BYTES, b"\0")


def test_version_size_and_targets_are_read() -> None:
    header = rtx_header(_header(size_bytes=1000, target_bits=0b001000), file_size_bytes=1000)

    assert header.version == "1.7.1.116"
    assert header.size_bytes == 1000
    assert header.targets == ("SM89",)


def test_the_default_targets_leave_out_turing_and_the_unexplained_bit() -> None:
    header = rtx_header(_header(target_bits=126), file_size_bytes=None)

    assert header.targets == ("SM80", "SM86", "SM89", "SM120", "SM121")


@pytest.mark.parametrize("file_size_bytes", [64, 999, 1001])
def test_a_file_of_another_size_than_the_header_says_is_refused(file_size_bytes: int) -> None:
    with pytest.raises(ArtifactError, match=f"truncated.*1000 bytes.*{file_size_bytes}") as caught:
        rtx_header(_header(size_bytes=1000), file_size_bytes=file_size_bytes)

    assert "harness export" in caught.value.hint


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"vtrt",
        _header()[: HEADER_BYTES - 1],
        b"ftrt" + _header()[4:],
        _header()[:28] + b"ftrt" + _header()[32:],
        b"\x08\x0a\x12\x07pytorch".ljust(HEADER_BYTES, b"\0"),
        b"hello world, this is no engine at all, and it is longer than a header is",
    ],
    ids=["empty", "magic only", "one byte short", "first magic", "second magic", "ONNX", "text"],
)
def test_what_is_no_engine_is_refused(header: bytes) -> None:
    with pytest.raises(ArtifactError, match="not a TensorRT-RTX engine"):
        rtx_header(header, file_size_bytes=None)
