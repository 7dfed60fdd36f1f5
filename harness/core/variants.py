"""What a converted model is called, and what that name says: precision, input and output.

The precision belongs to the ONNX file, because TensorRT 11 and TensorRT-RTX build strongly typed networks only. int8
exists in two forms, for no single one is fast everywhere: `int8` has symmetric int8 activations, which TensorRT,
TensorRT-RTX and OpenVINO want; `int8-u8s8` has uint8 activations, which ONNX Runtime's x86 kernels want.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-u8s8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# The least share of answers that must stay the same; the gate (bench/gate.py) applies it to the test split, and the
# search for layers to keep in float (export/mixed_int8.py) to validation.
SMALLEST_AGREEMENT: Mapping[str, float] = MappingProxyType(
    {"fp16": 0.995, "bf16": 0.995, "int8": 0.985, "int8-u8s8": 0.985}
)
QUANTISED: frozenset[str] = frozenset({"int8", "int8-u8s8"})
# TensorRT takes neither uint8 activations nor zero points other than 0.
TENSORRT_PRECISIONS: frozenset[str] = frozenset({"fp32", "fp16", "bf16", "int8"})


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One form of a checkpoint. Plain: float32 images [b, 3, h, w] in, logits [b, c] out.

    `uint8_input` takes decoded and resized pixels instead: uint8 [b, h, w, 3]. `probabilities` gives probabilities
    [b, c] and the class index answered [b] instead of logits.
    """

    precision: Precision
    uint8_input: bool = False
    probabilities: bool = False

    @property
    def name(self) -> str:
        """The stem of its files, for instance fp16-uint8in-prob."""
        return self.precision + "-uint8in" * self.uint8_input + "-prob" * self.probabilities

    @property
    def plain(self) -> bool:
        """Whether input and output are those of the checkpoint."""
        return not (self.uint8_input or self.probabilities)

    def input_shape(self, batch_size: int, image_px: int) -> tuple[int, int, int, int]:
        """Return the shape of the input for a batch."""
        if self.uint8_input:
            return (batch_size, image_px, image_px, 3)
        return (batch_size, 3, image_px, image_px)


def variant_from_name(name: str) -> Variant | None:
    """Return what a file's stem says, None where it is no variant's."""
    for precision in PRECISIONS:
        for uint8_input in (False, True):
            for probabilities in (False, True):
                variant = Variant(precision=precision, uint8_input=uint8_input, probabilities=probabilities)
                if variant.name == name:
                    return variant
    return None
