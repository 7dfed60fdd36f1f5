"""What the tests of harness/ share: tiny films written as real files, folders of them, and a tiny ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WriteFilm = Callable[..., Path]
WriteFolders = Callable[..., Path]


@pytest.fixture
def write_film() -> WriteFilm:
    """Return a function that writes a gray film of random pixels; another seed gives other bytes."""

    def write(path: Path, *, seed: int, size: tuple[int, int] = (20, 24)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels_hw = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0]), dtype=np.uint8)
        Image.fromarray(pixels_hw).save(path)
        return path

    return write


@pytest.fixture
def write_folders(tmp_path: Path, write_film: WriteFilm) -> WriteFolders:
    """Return a function that fills `tmp_path/NAME` with FOLDER -> number of films, no two of them alike."""

    def write(counts: Mapping[str, int], *, name: str = "films") -> Path:
        seed = 0
        for folder, count in counts.items():
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                write_film(tmp_path / name / folder / f"{folder.replace('/', '-')}-{index:03d}.png", seed=seed)
                seed += 1
        return tmp_path / name

    return write


def _tiny_weights() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "kernel": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "head": random.normal(size=(2, 4)).astype(np.float32),
        "bias": np.zeros(2, np.float32),
    }


# How each variant of the tiny model holds one weight: nodes that give it, and what is stored.
def _held_weight(variant: str, name: str, value: Any) -> tuple[list[Any], dict[str, Any], str]:
    from onnx import helper

    if not variant.startswith("int8") or name == "bias":
        return [], {name: value}, name
    scales = np.full(len(value), 0.05, np.float32)
    stored = {f"{name}_scale": scales, f"{name}_zero": np.zeros(len(value), np.int8)}
    parameters = list(stored)
    dequantise = helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"], axis=0)
    if variant == "int8 of float weights":
        quantise = helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], axis=0)
        return [quantise, dequantise], {name: value} | stored, f"{name}_dq"
    narrow = np.clip(np.round(value / 0.05), -127, 127).astype(np.int8)
    return [dequantise], {f"{name}_q": narrow} | stored, f"{name}_dq"


@pytest.fixture
def tiny_onnx() -> Callable[..., Any]:
    """Return a function that makes (batch, 3, 8, 8) -> (batch, 2): Conv padded by 1, pool, Gemm.

    Variants: fp32, fp16, bf16, int8 (stored so, uint8 activations), "int8 of float weights", "uint8 nhwc" (pixels in,
    probabilities out, the preprocessing inside the graph).
    """
    from onnx import TensorProto, helper, numpy_helper

    def make(variant: str = "fp32", *, batch: int | str = "batch", side_px: int | str = 8) -> Any:
        wide = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}.get(variant, TensorProto.FLOAT)
        nodes, stored, held = [], {}, {}
        for name, value in _tiny_weights().items():
            made, kept, held[name] = _held_weight(variant, name, value)
            nodes, stored = nodes + made, stored | kept
        image, shape, pixel_type = "image", [batch, 3, side_px, side_px], wide
        if variant == "uint8 nhwc":
            shape, pixel_type = [batch, side_px, side_px, 3], TensorProto.UINT8
            nodes += [
                helper.make_node("Cast", [image], ["cast"], to=TensorProto.FLOAT),
                helper.make_node("Transpose", ["cast"], ["bchw"], perm=[0, 3, 1, 2]),
            ]
            image = "bchw"
        if variant.startswith("int8"):
            stored |= {"scale": np.float32(0.1), "zero": np.uint8(3)}
            nodes += [
                helper.make_node("QuantizeLinear", [image, "scale", "zero"], ["quantised"]),
                helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["narrowed"]),
            ]
            image = "narrowed"
        nodes += [
            helper.make_node("Conv", [image, held["kernel"]], ["conv"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["conv"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", held["head"], held["bias"]], ["logits"], transB=1),
        ]
        output = "logits"
        if variant == "uint8 nhwc":
            nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"]))
            output = "probabilities"
        tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
        if wide != TensorProto.FLOAT:
            tensors = [helper.make_tensor(each.name, wide, each.dims, numpy_helper.to_array(each)) for each in tensors]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", pixel_type, shape)],
            [helper.make_tensor_value_info(output, wide, [batch, 2])],
            tensors,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)

    return make
