"""Bugs of lower precisions: overflow, absurd scales, ranges measured on the wrong images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray

from export.low_precision import low_precision_model
from export.quantisation import QuantisedForm, measure_ranges, write_quantised
from harness.core.contract import Preprocessing
from harness.core.files import sha256_from_text
from harness.core.passport import Passport
from harness.core.progress import SILENT
from harness.core.variants import variant_from_name
from tests.mutants.bed import Bed, vouch
from tests.mutants.graphs import Change, Model, change_array, node_of
from tests.mutants.mutant import AGREEMENT, PAIR, Mutant, graph_mutant

Pixels = NDArray[np.uint8]
_COARSE = f"{PAIR}|{AGREEMENT}"
_IMAGES = 16
# The largest number of float16 is 65,504; weights of these networks stay below 1, activations reach some tens.
_LARGE, _TOO_LARGE = 2.0**14, 2.0**20


def _scale_through(model: Model, factor: float) -> None:
    """Make every activation `factor` times larger and the head as much smaller: the same answers in float32.

    Convolutions, ReLU, additions and pooling keep a factor, so the first weights and all biases carry it.
    """
    change_array(model, "conv1.weight", lambda weights: weights * factor)
    for each in list(model.graph.initializer):
        if each.name.endswith("weight_bias"):
            change_array(model, each.name, lambda bias: bias * factor)
    change_array(model, "fc.0.weight", lambda weights: weights / factor)


def _activations_overflow(bed: Bed) -> None:
    """Convert a network to float16 whose weights fit and whose activations are beyond its range."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "scaled.onnx"
        model = onnx.load(bed.honest.export_folder / "fp32.onnx")
        _scale_through(model, _LARGE)
        onnx.save(model, source)
        low = low_precision_model(source, "fp16")
    _write_with_passport(bed, low)


def _weights_overflow(model: Model) -> None:
    """Convert a network to float16 whose weights are beyond its range; the exporter refuses, others do not."""
    with np.errstate(over="ignore"):
        _scale_through(model, _TOO_LARGE)


def _write_with_passport(bed: Bed, model: onnx_ir.Model) -> None:
    passport = Passport.model_validate(bed.sidecar().details["passport"])
    variant = variant_from_name(bed.file.split(".")[0])
    assert variant is not None
    model.metadata_props.clear()
    model.metadata_props.update(passport.metadata(variant))
    model.producer_name = "cxr-harness"
    vouch(bed.path, partial(onnx_ir.save, model))


def _halves_from_the_wrong_end(model: Model) -> None:
    """Read the bytes of float16 weights in the other order."""
    change_array(model, "layer3.0.conv1.weight", lambda weights: np.nan_to_num(weights.byteswap(), posinf=0, neginf=0))


def _scale_of(position: int, factor: float) -> Change:
    def change(model: Model) -> None:
        node = node_of(model, "QuantizeLinear", position)
        change_array(model, node.input[1], lambda scale: scale * np.float32(factor))

    return change


def _weight_scale(model: Model, factor: float) -> None:
    change_array(model, "layer2.0.conv1.weight_scale", lambda scale: scale * np.float32(factor))


def _quantised_weights_moved(model: Model) -> None:
    """Shift the integers of a layer by 40: a zero point that one side believes in and the other does not."""
    name = "layer3.0.conv1.weight_quantized"
    change_array(model, name, lambda weights: np.clip(weights.astype(np.int32) + 40, -127, 127))


def _calibrated(bed: Bed, pixels_of: Callable[[Bed], Pixels], preprocessing: Preprocessing | None = None) -> None:
    """Quantise again, with ranges from other images than the contract's."""
    form: QuantisedForm = "int8"
    contract = bed.honest.finished_record().contract
    pixels_bhwc = pixels_of(bed)
    with tempfile.TemporaryDirectory() as folder:
        source, ranges, out = (Path(folder) / name for name in ("fp32.onnx", "ranges.json", "int8.onnx"))
        source.symlink_to((bed.honest.export_folder / "fp32.onnx").resolve())
        with SILENT.task("", total=None) as task:
            measure_ranges(source, ranges, pixels_bhwc, preprocessing or contract.preprocessing, "minmax", task)
        write_quantised(source, out, form=form, ranges=ranges, method="minmax")
        _write_with_passport(bed, onnx_ir.load(out))


def _black(bed: Bed) -> Pixels:
    return np.zeros_like(_training(bed))


def _training(bed: Bed) -> Pixels:
    images = bed.evaluation_set()
    return np.asarray(images.pixels_bhwc[images.indices_of("train")[:_IMAGES]])


def _calibrated_on_test_films(bed: Bed) -> None:
    """Fit the ranges to the very films that judge, and say so."""
    images = bed.evaluation_set()
    rows = images.indices_of("test")[:_IMAGES]
    _calibrated(bed, lambda _: np.asarray(images.pixels_bhwc[rows]))
    films = sha256_from_text("\n".join(sorted(images.sha256s[row] for row in rows)))
    bed.change_sidecar(
        lambda content: content["details"]["calibration"].update({"rows": rows.tolist(), "sha256": films})
    )


def _calibration_untold(bed: Bed) -> None:
    bed.change_sidecar(lambda content: content["details"]["calibration"].pop("rows"))


# Pixels as they are, 0 to 255: somebody forgot to normalise the calibration images.
_AS_THEY_ARE = Preprocessing(resize_px=1, crop_px=1, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))


def _int8(name: str, change: Change, file: str = "int8.onnx") -> Mutant:
    return graph_mutant(name, file, change, reason=_COARSE)


def _recalibrated(name: str, pixels_of: Callable[[Bed], Pixels], preprocessing: Preprocessing | None = None) -> Mutant:
    damage = partial(_calibrated, pixels_of=pixels_of, preprocessing=preprocessing)
    return Mutant(name=name, file="int8.onnx", damage=damage, steps=("numeric",), reason=_COARSE)


MUTANTS = (
    Mutant(
        name="activations beyond float16",
        file="fp16.onnx",
        damage=_activations_overflow,
        steps=("numeric",),
        reason=f"NaN or inf|{_COARSE}",
    ),
    graph_mutant("weights beyond float16", "fp16.onnx", _weights_overflow, reason=f"NaN or inf|{_COARSE}"),
    graph_mutant("float16 bytes of a layer swapped", "fp16.onnx", _halves_from_the_wrong_end, reason=_COARSE),
    _int8("an activation's scale x 64", _scale_of(5, 64)),
    _int8("an activation's scale / 64", _scale_of(5, 1 / 64)),
    _int8("an activation's scale x 64", _scale_of(5, 64), "int8-u8s8.onnx"),
    _int8("weight scales of a layer x 8", partial(_weight_scale, factor=8)),
    _int8("integers of a layer shifted", _quantised_weights_moved),
    _recalibrated("calibrated on black images", _black),
    _recalibrated("calibrated on pixels not normalised", _training, _AS_THEY_ARE),
    Mutant(
        name="calibrated on test films",
        file="int8.onnx",
        damage=_calibrated_on_test_films,
        steps=("contract",),
        reason="images that judge it",
        lie=True,
    ),
    Mutant(
        name="calibration films not told",
        file="int8.onnx",
        damage=_calibration_untold,
        steps=("contract",),
        reason="does not say which images",
        lie=True,
    ),
)
