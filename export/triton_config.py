"""One model's config.pbtxt for Triton Inference Server: the fields of model_config.proto, written as text protobuf.

Written by hand, for a dozen fields do not justify a dependency; the tests parse every file into Triton's own schema.
dims never hold the batch where Triton batches. OpenVINO is the exception: its back end fixes the batch at
max_batch_size and refuses any other, so its models declare a free first dimension and max_batch_size 0 instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from export.deployment_graph import ANSWER_NAME, PIXELS_NAME, PROBABILITIES_NAME
from export.engine_options import BatchProfile
from export.onnx_export import INPUT_NAME, OUTPUT_NAME
from harness.core.passport import PREFIX, Passport
from harness.core.variants import Variant

TritonBackend = Literal["onnxruntime", "tensorrt", "openvino"]
LABELS_NAME = "labels.txt"
# What waiting for others to share a batch may add to a request's latency.
_QUEUE_DELAY_US = 1000
# What fits no parameter, and travels inside the model file anyway.
_TOO_LONG = frozenset({PREFIX + "golden_pair"})


class EnumValue(str):
    """A word that text protobuf writes without quotes."""

    __slots__ = ()


_Scalar = str | int | EnumValue
Field = _Scalar | Sequence[_Scalar] | Mapping[str, "Field"] | Sequence[Mapping[str, "Field"]]


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What config.pbtxt says of one model; `profile` is the batches an engine was built for, None for other files."""

    name: str
    backend: TritonBackend
    variant: Variant
    passport: Passport
    profile: BatchProfile | None = None

    def config(self) -> str:
        """Return the text of config.pbtxt."""
        fields: dict[str, Field] = {
            "name": self.name,
            "backend": self.backend,
            "max_batch_size": (self.profile or BatchProfile()).maximum if self._batched else 0,
            "input": [self._input()],
            "output": self._outputs(),
            # One: each instance already spreads over all cores, or fills the GPU.
            "instance_group": [{"count": 1, "kind": EnumValue(self._instance_kind())}],
        }
        if self._batched:
            fields["dynamic_batching"] = self._batching()
        fields["parameters"] = [
            {"key": key, "value": {"string_value": value}} for key, value in sorted(self._parameters().items())
        ]
        return text_from_fields(fields)

    def labels(self) -> str:
        """Return the text of the label file: one class a line, in the order of the outputs."""
        return "".join(f"{name}\n" for name in self.passport.contract.class_names)

    @property
    def _batched(self) -> bool:
        return self.backend != "openvino"

    def _dims(self, *without_batch: int) -> list[int]:
        return [*([] if self._batched else [-1]), *without_batch]

    def _input(self) -> dict[str, Field]:
        uint8 = self.variant.uint8_input
        shape = self.variant.input_shape(-1, self.passport.contract.preprocessing.crop_px)
        described: dict[str, Field] = {
            "name": PIXELS_NAME if uint8 else INPUT_NAME,
            "data_type": EnumValue("TYPE_UINT8" if uint8 else "TYPE_FP32"),
        }
        if self._batched:  # A format asks for three dims.
            described["format"] = EnumValue("FORMAT_NHWC" if uint8 else "FORMAT_NCHW")
        return described | {"dims": self._dims(*shape[1:])}

    def _outputs(self) -> list[Mapping[str, Field]]:
        scores: dict[str, Field] = {
            "name": PROBABILITIES_NAME if self.variant.probabilities else OUTPUT_NAME,
            "data_type": EnumValue("TYPE_FP32"),
            "dims": self._dims(len(self.passport.contract.class_names)),
            "label_filename": LABELS_NAME,
        }
        if not self.variant.probabilities:
            return [scores]
        answer: dict[str, Field] = {"name": ANSWER_NAME, "data_type": EnumValue("TYPE_INT64")}
        if self._batched:  # Triton knows no empty dims: [b] is served as [b, 1].
            return [scores, answer | {"dims": [1], "reshape": {"shape": []}}]
        return [scores, answer | {"dims": self._dims()}]

    def _batching(self) -> dict[str, Field]:
        # A preferred size helps where one size is faster than its neighbours: an engine is tuned for its optimum.
        preferred: dict[str, Field] = {"preferred_batch_size": [self.profile.optimum]} if self.profile else {}
        return preferred | {"max_queue_delay_microseconds": _QUEUE_DELAY_US}

    def _instance_kind(self) -> str:
        if self.backend == "tensorrt":
            return "KIND_GPU"
        # OpenVINO's back end runs on nothing else; uint8 activations are for x86 kernels.
        if self.backend == "openvino" or self.variant.precision == "int8-u8s8":
            return "KIND_CPU"
        return "KIND_AUTO"  # GPUs where the server has any, else the CPU.

    def _parameters(self) -> dict[str, str]:
        told = {key: text for key, text in self.passport.metadata(self.variant).items() if key not in _TOO_LONG}
        if self.backend == "openvino" and self.variant.precision == "bf16":
            told["HINT_BF16"] = "YES"  # The back end's own parameter: compute in what the weights are in.
        return told


def text_from_fields(fields: Mapping[str, Field], indent: str = "") -> str:
    """Return a message as text protobuf: lists of scalars in brackets, lists of messages as repeated blocks."""
    lines = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            lines.append(_block(name, value, indent))
        elif isinstance(value, str | int):
            lines.append(f"{indent}{name}: {_scalar(value)}\n")
        elif value and isinstance(value[0], Mapping):
            lines += [_block(name, each, indent) for each in value if isinstance(each, Mapping)]
        else:
            scalars = ", ".join(_scalar(each) for each in value if isinstance(each, str | int))
            lines.append(f"{indent}{name}: [{scalars}]\n")
    return "".join(lines)


def _block(name: str, fields: Mapping[str, Field], indent: str) -> str:
    return f"{indent}{name} {{\n{text_from_fields(fields, indent + '  ')}{indent}}}\n"


def _scalar(value: _Scalar) -> str:
    if isinstance(value, EnumValue | int):
        return str(value)
    # Octal escapes for all but plain ASCII: every parser reads them, whatever a folder was named.
    return '"' + "".join(_escaped(byte) for byte in value.encode()) + '"'


def _escaped(byte: int) -> str:
    plain = 32 <= byte < 127 and byte not in b'"\\'
    return chr(byte) if plain else f"\\{byte:03o}"
