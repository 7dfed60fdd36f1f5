"""Bugs of what other runtimes load: OpenVINO models, and engines of TensorRT-RTX as far as a machine without GPU sees.

The answers of an engine are judged on the GPU that runs it; here only what its header and its sidecar tell.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import onnx

from harness.core.artifacts import sidecar_path
from harness.core.files import sha256_from_file
from tests.mutants.bed import Bed, NotApplicableError, vouch
from tests.mutants.graphs import Change
from tests.mutants.mutant import FP32, PAIR, Mutant, Step
from tests.mutants.weights import add_to_a_class, swap_classes

_IR = "fp32.ir.xml"
_ENGINE = "fp32.rtx.engine"
_NUMERIC = f"{PAIR}|{FP32}"


def write_ir(bed: Bed, make: Callable[[Any], Any], *, halved: bool = False) -> None:
    """Save an OpenVINO model in the place of ours, with both sidecars made anew."""
    if util.find_spec("openvino") is None:
        raise NotApplicableError("openvino is not installed")
    import openvino

    core = openvino.Core()
    ours = core.read_model(str(bed.path))
    entries = ours.get_rt_info(["cxr_harness"]).value
    passport = {key: str(getattr(entry, "value", entry)) for key, entry in entries.items()}
    weights = bed.path.with_suffix(".bin")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.xml"
        model = make(core)
        for key, value in passport.items():
            model.set_rt_info(value, ["cxr_harness", key])
        openvino.save_model(model, str(made), compress_to_fp16=halved)
        vouch(weights, lambda temporary: shutil.copy(made.with_suffix(".bin"), temporary))
        details = {"weights_sha256": sha256_from_file(weights), "weights_bytes": weights.stat().st_size}
        vouch(bed.path, lambda temporary: shutil.copy(made, temporary), details)


def _from_changed_onnx(bed: Bed, change: Change) -> None:
    model = onnx.load(bed.honest.export_folder / "fp32.onnx")
    change(model)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "changed.onnx"
        onnx.save(model, source)
        write_ir(bed, lambda core: core.read_model(str(source)))


def _with_preprocessing(bed: Bed, *, reverse: bool) -> None:
    """Let OpenVINO's converter reverse the channels, or normalise what is normalised already."""

    def make(core: Any) -> Any:
        from openvino.preprocess import PrePostProcessor

        steps = PrePostProcessor(core.read_model(str(bed.path)))
        steps.input().tensor().set_layout(_layout())
        steps.input().model().set_layout(_layout())
        if reverse:
            steps.input().preprocess().reverse_channels()
        else:
            steps.input().preprocess().mean([0.485, 0.456, 0.406]).scale([0.229, 0.224, 0.225])
        return steps.build()

    write_ir(bed, make)


def _layout() -> Any:
    import openvino

    return openvino.Layout("NCHW")


def _weights_of_the_other(bed: Bed) -> None:
    """Put another model's weights beside our description of the network."""
    source = bed.other.export_folder / Path(_IR).with_suffix(".bin").name
    if not source.is_file():
        raise NotApplicableError("openvino is not installed")
    for path in (source, sidecar_path(source)):
        shutil.copy(path, bed.run.export_folder)


def _weights_of_the_other_vouched(bed: Bed) -> None:
    """Use another model's weights, and let all sidecars vouch for them."""
    write_ir(bed, lambda core: core.read_model(str(bed.other.export_folder / _IR)))


def _halved(bed: Bed) -> None:
    """Save as OpenVINO saves by default: float32 weights as float16, under the name of float32."""
    write_ir(bed, lambda core: core.read_model(str(bed.path)), halved=True)


def _engine_cut(bed: Bed, *, vouched: bool) -> None:
    part = bed.path.read_bytes()[:-1000]
    if vouched:
        vouch(bed.path, lambda temporary: temporary.write_bytes(part))
    else:
        bed.path.write_bytes(part)


def _engine_of_the_other(bed: Bed) -> None:
    bed.take(bed.other, _ENGINE, sidecar=True)


def _onnx_as_engine(bed: Bed) -> None:
    source = bed.honest.export_folder / "fp32.onnx"
    vouch(bed.path, lambda temporary: shutil.copy(source, temporary))


def _engine_for_other_gpus(bed: Bed) -> None:
    bed.change_sidecar(lambda content: content["details"].update({"targets": ["SM90"]}))


def _ir(name: str, damage: Callable[[Bed], None], reason: str = _NUMERIC, step: Step = "numeric") -> Mutant:
    return Mutant(name=name, file=_IR, damage=damage, steps=(step,), reason=reason, backend="openvino")


def _engine(name: str, damage: Callable[[Bed], None], reason: str) -> Mutant:
    return Mutant(
        name=name,
        file=_ENGINE,
        damage=damage,
        steps=("contract",),
        reason=reason,
        backend="tensorrt",
        lie=True,
        measurable=False,
    )


MUTANTS = (
    _ir("two classes swapped", partial(_from_changed_onnx, change=swap_classes)),
    _ir("bias + 1 for a class", partial(_from_changed_onnx, change=partial(add_to_a_class, amount=1.0))),
    _ir("channels reversed by the converter", partial(_with_preprocessing, reverse=True)),
    _ir("normalised twice by the converter", partial(_with_preprocessing, reverse=False)),
    _ir("weights halved when saved", _halved),
    _ir("weights of another checkpoint, vouched for", _weights_of_the_other_vouched),
    replace(
        _ir("weights of another checkpoint", _weights_of_the_other, "belongs to another model", "contract"), lie=True
    ),
    _engine("the end of the engine missing", partial(_engine_cut, vouched=False), "not the file that its sidecar"),
    _engine("the end missing, sidecar of that", partial(_engine_cut, vouched=True), "truncated"),
    _engine("engine of another checkpoint", _engine_of_the_other, "another checkpoint"),
    _engine("an ONNX file as an engine", _onnx_as_engine, "is an ONNX file"),
    _engine("an engine for other GPUs than it says", _engine_for_other_gpus, "targets"),
)
