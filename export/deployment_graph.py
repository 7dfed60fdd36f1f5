"""A model with what deployment needs inside the graph: pixels in, probabilities and the answer out.

Input: everything after decoding and resizing, so that a caller hands over uint8 pixels [b, h, w, 3] and cannot get
the normalisation wrong: Cast, / 255, - mean, / std, NHWC -> NCHW, in float32 and in this order, which is the order of
harness/data/preprocessing.py.
Output: the temperature where there is one, softmax or sigmoid, and the class index answered: the largest probability,
or for independent labels the first, in index order, above one half, else the largest (harness/core/metrics.py). The
answer is taken from the logits, where it is the same and nothing is lost: the sigmoid in float32 is exactly 1/2 for
small positive logits, and 0 for all very negative ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.cases import LabelMode
from harness.core.contract import Preprocessing

if TYPE_CHECKING:
    import onnx_ir

PIXELS_NAME = "pixels"
PROBABILITIES_NAME = "probabilities"
ANSWER_NAME = "answer"


def take_pixels(model: onnx_ir.Model, preprocessing: Preprocessing) -> None:
    """Replace the model's float32 input [b, 3, h, w] by uint8 pixels [b, h, w, 3]."""
    import onnx_ir

    graph = model.graph
    (image,) = graph.inputs
    assert image.shape is not None, "the exporter gives every input a shape"
    batch, _, height, width = image.shape
    pixels = onnx_ir.Value(
        name=PIXELS_NAME,
        type=onnx_ir.TensorType(onnx_ir.DataType.UINT8),
        shape=onnx_ir.Shape([batch, height, width, 3]),
    )
    uses, first = tuple(image.uses()), graph[0]
    make = _Maker(graph, first)
    wide = make("Cast", [pixels], {"to": onnx_ir.DataType.FLOAT.value})
    scaled = make("Div", [wide, make.constant("largest_pixel", np.float32(255))])
    centred = make("Sub", [scaled, make.constant("mean", np.array(preprocessing.mean, dtype=np.float32))])
    normalised = make("Div", [centred, make.constant("std", np.array(preprocessing.std, dtype=np.float32))])
    images = make("Transpose", [normalised], {"perm": [0, 3, 1, 2]})
    images.name, images.shape, images.type = image.name, image.shape, image.type
    for node, index in uses:
        node.replace_input_with(index, images)
    graph.inputs[0] = pixels
    image.name = None


def give_probabilities(model: onnx_ir.Model, label_mode: LabelMode, temperature: float | None) -> None:
    """Replace the output logits [b, c] by probabilities [b, c] in float32 and the answer [b] in int64."""
    import onnx_ir

    graph = model.graph
    (logits,) = graph.outputs
    make = _Maker(graph, None)
    scores = logits
    if temperature is not None:
        scores = make("Div", [scores, make.constant("temperature", np.float32(temperature))])
    operator, attributes = ("Softmax", {"axis": 1}) if label_mode == "multiclass" else ("Sigmoid", {})
    probabilities = make(operator, [scores], attributes)
    probabilities.name, probabilities.shape = PROBABILITIES_NAME, logits.shape
    probabilities.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    answer = _argmax(make, logits)
    if label_mode == "multilabel":
        above = make("Greater", [logits, make.constant("zero", np.float32(0))])
        first = _argmax(make, make("Cast", [above], {"to": onnx_ir.DataType.FLOAT.value}))
        # Of no label above one half the maximum over zeros is 0: then the largest counts.
        count = make("ReduceMax", [make("Cast", [above], {"to": onnx_ir.DataType.INT64.value}), make.axis(1)])
        some = make("Cast", [make("Squeeze", [count, make.axis(1)])], {"to": onnx_ir.DataType.BOOL.value})
        answer = make("Where", [some, first, answer])
    answer.name, answer.type = ANSWER_NAME, onnx_ir.TensorType(onnx_ir.DataType.INT64)
    assert logits.shape is not None, "the exporter gives every output a shape"
    answer.shape = onnx_ir.Shape([logits.shape[0]])
    graph.outputs[0] = probabilities
    graph.outputs.append(answer)


def _argmax(make: _Maker, value: onnx_ir.Value) -> onnx_ir.Value:
    return make("ArgMax", [value], {"axis": 1, "keepdims": 0})


class _Maker:
    """Adds nodes one after another before a node of the graph, or at its end."""

    def __init__(self, graph: onnx_ir.Graph, before: onnx_ir.Node | None) -> None:
        self._graph = graph
        self._before = before
        self._side = "input" if before is not None else "output"  # Keeps names apart from the exporter's own.
        self._count = 0

    def __call__(
        self, operator: str, inputs: list[onnx_ir.Value], attributes: dict[str, Any] | None = None
    ) -> onnx_ir.Value:
        import onnx_ir

        self._count += 1
        name = f"{self._side}_{self._count}_{operator.lower()}"
        node = onnx_ir.node(operator, inputs, attributes or {}, name=name)
        node.outputs[0].name = name
        if self._before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._before, node)
        return node.outputs[0]

    def constant(self, name: str, array: Any) -> onnx_ir.Value:
        import onnx_ir

        name = f"{self._side}_{name}"
        tensor = onnx_ir.tensor(np.asarray(array), name=name)
        value = onnx_ir.Value(name=name, type=onnx_ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def axis(self, number: int) -> onnx_ir.Value:
        name = f"axis_{number}"
        known = self._graph.initializers.get(f"{self._side}_{name}")
        return known if known is not None else self.constant(name, np.array([number], dtype=np.int64))
