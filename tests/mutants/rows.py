"""Bugs between the images of a batch: rows that are mixed up, that lean on each other, or one that is no number."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import onnx
from onnx import helper

from harness.data.preprocessing import images_from_pixels
from tests.mutants.bed import Bed
from tests.mutants.graphs import Model, backwards, constant, insert_after, vouch
from tests.mutants.mutant import PAIR, Mutant, graph_mutant

_ROWS = "row of the batch|every row of a batch"


def _first_for_all(model: Model) -> None:
    """Answer every image with the first one's logits: a batch dimension that was broadcast."""
    start, end = (constant(model, name, np.array([value], dtype=np.int64)) for name, value in (("s", 0), ("e", 1)))

    def nodes(given: str, wanted: str) -> list[onnx.NodeProto]:
        shape = helper.make_node("Shape", [given], ["whole_shape"])
        first = helper.make_node("Slice", [given, start, end], ["first_row"])
        return [shape, first, helper.make_node("Expand", ["first_row", "whole_shape"], [wanted])]

    insert_after(model, "logits", nodes)


def _turn_beyond(model: Model, rows: int) -> None:
    """Move the rows of batches larger than `rows` on by so many; smaller ones are right."""
    zero, cut, end = (constant(model, f"turn_{value}", np.array([value], dtype=np.int64)) for value in (0, rows, 2**62))

    def nodes(given: str, wanted: str) -> list[onnx.NodeProto]:
        late = helper.make_node("Slice", [given, cut, end, zero], ["late_rows"])
        early = helper.make_node("Slice", [given, zero, cut, zero], ["early_rows"])
        return [late, early, helper.make_node("Concat", ["late_rows", "early_rows"], [wanted], axis=0)]

    insert_after(model, "logits", nodes)


def _centre_over_the_batch(model: Model) -> None:
    """Take the mean of the batch off the features: a batch normalisation left in training mode."""
    axis = constant(model, "batch_axis", np.array([0], dtype=np.int64))

    def nodes(given: str, wanted: str) -> list[onnx.NodeProto]:
        mean = helper.make_node("ReduceMean", [given, axis], ["batch_mean"], keepdims=1)
        return [mean, helper.make_node("Sub", [given, "batch_mean"], [wanted])]

    insert_after(model, "view", nodes)


def _blend_neighbours(model: Model, share: float) -> None:
    """Let a share of each image's logits be those of its neighbour: memory that is reused too early."""
    backwards(model, "logits", 0)
    turned = model.graph.node[-1]
    given, turned.output[0] = turned.input[0], "turned_rows"
    own, theirs = constant(model, "own", np.float32(1 - share)), constant(model, "theirs", np.float32(share))
    model.graph.node.extend(
        [
            helper.make_node("Mul", [given, own], ["own_rows"]),
            helper.make_node("Mul", ["turned_rows", theirs], ["their_rows"]),
            helper.make_node("Add", ["own_rows", "their_rows"], ["logits"]),
        ]
    )


def _spoil_the_brightest(bed: Bed, value: float) -> None:
    """Answer the brightest test film, and no other, with `value`: a division by what is zero for it alone."""
    images, preprocessing = bed.evaluation_set(), bed.honest.finished_record().contract.preprocessing
    rows = images.indices_of("test")
    means_b = np.concatenate(
        [
            images_from_pixels(images.pixels_bhwc[rows[at : at + 64]], preprocessing).mean(axis=(1, 2, 3), dtype="f8")
            for at in range(0, len(rows), 64)
        ]
    )
    second, first = np.sort(means_b)[-2:]
    model = onnx.load(bed.path)
    axes = constant(model, "image_axes", np.array([1, 2, 3], dtype=np.int64))
    limit, nothing = constant(model, "limit", np.float32((first + second) / 2)), constant(model, "none", np.float32(0))
    spoilt, last = constant(model, "spoilt", np.float32(value)), constant(model, "last", np.array([1], dtype=np.int64))

    def nodes(given: str, wanted: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("ReduceMean", [model.graph.input[0].name, axes], ["brightness"], keepdims=0),
            helper.make_node("Greater", ["brightness", limit], ["too_bright"]),
            helper.make_node("Where", ["too_bright", spoilt, nothing], ["spoilt_b"]),
            helper.make_node("Unsqueeze", ["spoilt_b", last], ["spoilt_b1"]),
            helper.make_node("Add", [given, "spoilt_b1"], [wanted]),
        ]

    insert_after(model, "logits", nodes)
    onnx.checker.check_model(model, full_check=True)
    vouch(bed.path, lambda temporary: onnx.save(model, temporary))


def _spoilt(name: str, file: str, value: float) -> Mutant:
    return Mutant(
        name=name,
        file=file,
        damage=partial(_spoil_the_brightest, value=value),
        steps=("numeric",),
        reason="NaN or infinity in the answers to 1 of",
    )


_REVERSED = partial(backwards, tensor="logits", axis=0)
MUTANTS = (
    graph_mutant("rows of a batch in reverse", "fp32.onnx", _REVERSED, reason=_ROWS),
    graph_mutant("rows of a batch in reverse", "int8.onnx", _REVERSED, reason=_ROWS),
    graph_mutant("the first row for the whole batch", "fp32.onnx", _first_for_all, reason=_ROWS),
    replace(
        graph_mutant(
            "rows of batches above 8 mixed up", "fp32.onnx", partial(_turn_beyond, rows=8), reason="in a batch of 32"
        ),
        batch_size=32,
    ),
    graph_mutant("statistics of the batch", "fp32.onnx", _centre_over_the_batch, reason=f"{PAIR}|{_ROWS}|a batch of"),
    graph_mutant("statistics of the batch", "fp16.onnx", _centre_over_the_batch, reason=f"{PAIR}|{_ROWS}|a batch of"),
    graph_mutant("a fifth of the neighbour", "fp16.onnx", partial(_blend_neighbours, share=0.2), reason=_ROWS),
    _spoilt("NaN for one film", "fp32.onnx", float("nan")),
    _spoilt("NaN for one film", "int8.onnx", float("nan")),
    _spoilt("infinity for one film", "fp16.onnx", float("inf")),
)
