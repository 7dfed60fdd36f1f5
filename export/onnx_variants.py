"""One run's ONNX files: the float32 base, the other precisions made from it, and each with deployment's ends.

base fp32 -> fp16 | bf16 | int8 | int8-u8s8 -> with uint8 input and probabilities. Every file carries the passport.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from export.calibration import CalibrationImages, calibration_images
from export.deployment_graph import give_probabilities, take_pixels
from export.low_precision import low_precision_model
from export.making import Maker, calibration_time, quantisation_details
from export.mixed_int8 import FloatLayers, Validation, layers_kept_in_float
from export.onnx_export import PACKAGES, base_model, save_and_check
from export.quantisation import QuantisedForm, measure_ranges, write_quantised
from export.request import ExportRequest
from export.scratch import move, scratch_folder, source_for_quantiser
from harness.core.artifacts import BUILD_S, CALIBRATION_S, Kind, Sidecar, read_sidecar, write_artifact
from harness.core.cases import case_named
from harness.core.passport import Passport
from harness.core.progress import Progress
from harness.core.runs import RANGES_NAME, RunDirectory
from harness.core.variants import QUANTISED, SMALLEST_AGREEMENT, Variant
from harness.data.evaluation_set import EvaluationSet

if TYPE_CHECKING:
    import onnx_ir

# One of the two is installed, by platform (pyproject.toml).
_ONNX_RUNTIME = "onnxruntime-gpu" if sys.platform == "linux" and platform.machine() == "x86_64" else "onnxruntime"
_QUANTISER_PACKAGES = ("onnx", "onnx-ir", "onnxscript", _ONNX_RUNTIME)


@dataclass(frozen=True, kw_only=True)
class OnnxVariants:
    """Makes the ONNX files of one build of a run."""

    run: RunDirectory
    passport: Passport
    evaluation_set: EvaluationSet
    validation: Validation
    request: ExportRequest
    maker: Maker
    progress: Progress

    def ensured(self, variant: Variant) -> Sidecar:
        """Return the sidecar of a variant's ONNX file, making it and what it is made from where needed."""
        if not variant.plain:
            return self._deployed(variant)
        if variant.precision == "fp32":
            return self._base()
        return self._quantised(variant) if variant.precision in QUANTISED else self._low_precision(variant)

    def path(self, variant: Variant) -> Path:
        return self.run.build_folder(self.maker.build) / f"{variant.name}.onnx"

    def _base(self) -> Sidecar:
        variant = Variant(precision="fp32")

        def model(_: Path) -> onnx_ir.Model:
            return base_model(self.run.checkpoint, self.passport.contract)

        return self._file(variant, {}, {}, PACKAGES, model)

    def _low_precision(self, variant: Variant) -> Sidecar:
        base = self._parent(Variant(precision="fp32"))
        source = self.path(Variant(precision="fp32"))

        def model(_: Path) -> onnx_ir.Model:
            return low_precision_model(source, "fp16" if variant.precision == "fp16" else "bf16")

        return self._file(variant, {"onnx": base.sha256}, {}, ("onnx-ir", "onnxscript", "numpy"), model)

    def _deployed(self, variant: Variant) -> Sidecar:
        plain = Variant(precision=variant.precision)
        parent = self._parent(plain)
        point, contract = self.passport.operating_point, self.passport.contract

        def model(_: Path) -> onnx_ir.Model:
            import onnx_ir

            made = onnx_ir.load(self.path(plain))
            if variant.uint8_input:
                take_pixels(made, contract.preprocessing)
            if variant.probabilities:
                give_probabilities(made, contract.label_mode, point.temperature)
            return made

        return self._file(
            variant,
            {"onnx": parent.sha256},
            quantisation_details(parent),
            ("onnx-ir",),
            model,
            found=calibration_time(parent),
        )

    def _quantised(self, variant: Variant) -> Sidecar:
        form: QuantisedForm = "int8" if variant.precision == "int8" else "int8-u8s8"
        base = self._parent(Variant(precision="fp32"))
        calibration = self.request.calibration
        images = calibration_images(self.evaluation_set, calibration)
        ranges = self._ranges(base, images)
        ranges_path = self._ranges_path()
        found: dict[str, JsonValue] = {}
        if BUILD_S in ranges.details:  # Those measured by earlier versions do not tell.
            found[CALIBRATION_S] = ranges.details[BUILD_S]

        def model(folder: Path) -> onnx_ir.Model:
            import onnx_ir

            source = source_for_quantiser(self.path(Variant(precision="fp32")), folder)
            write = partial(write_quantised, source, form=form, ranges=ranges_path, method=calibration.method)
            layers = FloatLayers(names=(), tried=())
            if self.request.int8 == "auto":
                layers = layers_kept_in_float(source, form, write, self.validation, folder, self.progress)
            quantised = folder / "quantised.onnx"
            write(quantised, float_nodes=layers.names)
            found["float_layers"] = list(layers.names)
            found["search"] = [list(step) for step in layers.tried]
            if len(self.validation.golden_bc):
                found["validation_agreement"] = round(self.validation.agreement(quantised), 6)
            return onnx_ir.load(quantised)

        options: dict[str, JsonValue] = {
            "calibration": {
                "images": calibration.count,
                "method": calibration.method,
                "seed": calibration.seed,
                "sha256": images.sha256,
                "rows": images.rows.tolist(),
                "split": "train",
            },
            "int8": self.request.int8,
        }
        parents = {"onnx": base.sha256, "ranges": ranges.sha256}
        return self._file(variant, parents, options, _QUANTISER_PACKAGES, model, found=found)

    def _ranges_path(self) -> Path:
        return self.run.build_folder(self.maker.build) / RANGES_NAME

    def _ranges(self, base: Sidecar, images: CalibrationImages) -> Sidecar:
        """Measure the ranges once for both int8 forms."""
        calibration, path = self.request.calibration, self._ranges_path()
        parents = {"onnx": base.sha256, "checkpoint": self.passport.checkpoint_sha256}
        options: dict[str, JsonValue] = {"method": calibration.method, "images_sha256": images.sha256}

        def make() -> Sidecar:
            started_s = time.perf_counter()
            with (
                self.progress.task(f"{self.run.name}: calibration", total=len(images.rows)) as task,
                scratch_folder(path) as folder,
            ):
                measured = folder / path.name
                measure_ranges(
                    source_for_quantiser(self.path(Variant(precision="fp32")), folder),
                    measured,
                    self.evaluation_set.pixels_bhwc[images.rows],
                    self.passport.contract.preprocessing,
                    calibration.method,
                    task,
                )
                return write_artifact(
                    path,
                    partial(move, measured),
                    kind=Kind.CALIBRATION_RANGES,
                    parents=parents,
                    packages=(_ONNX_RUNTIME,),
                    contract=self.passport.contract,
                    details=options | {"images": len(images.rows), "seed": calibration.seed, "build": self.maker.build},
                    started_s=started_s,
                )

        if any(each.path == path for each in self.maker.made):
            return read_sidecar(path, kind=Kind.CALIBRATION_RANGES, remedy="")
        return self.maker.ensured(
            path,
            Kind.CALIBRATION_RANGES,
            parents=parents,
            options=options,
            make=make,
            note=lambda sidecar: f"{sidecar.details['images']} training images, {sidecar.details['method']}",
        )

    def _parent(self, variant: Variant) -> Sidecar:
        """Return what another variant is made from; made in this very command it is not verified again."""
        path = self.path(variant)
        if any(each.path == path for each in self.maker.made):
            return read_sidecar(path, kind=Kind.ONNX_MODEL, remedy="")
        return self.ensured(variant)

    def _file(
        self,
        variant: Variant,
        parents: dict[str, str],
        options: dict[str, JsonValue],
        packages: tuple[str, ...],
        model: Callable[[Path], onnx_ir.Model],
        *,
        found: dict[str, JsonValue] | None = None,
    ) -> Sidecar:
        """Make one ONNX file from `model`, which gets a folder for what it writes meanwhile and may fill `found`."""
        path = self.path(variant)
        contract, metadata = self.passport.contract, self.passport.metadata(variant)
        parents = {"checkpoint": self.passport.checkpoint_sha256} | parents
        options = options | {"variant": variant.name, "passport": self.passport.model_dump(mode="json")}

        def make() -> Sidecar:
            started_s = time.perf_counter()
            with (
                self.progress.task(f"{self.run.name}: {self.maker.name(path)}", total=None),
                scratch_folder(path) as folder,
            ):
                made = model(folder)
                made.metadata_props.clear()
                made.metadata_props.update(metadata)
                made.producer_name = "cxr-harness"
                details = interface_of(made) | {
                    "precision": variant.precision,
                    "build": self.maker.build,
                    "parameters": case_named(contract.case).parameter_count,
                }
                return write_artifact(
                    path,
                    partial(save_and_check, made),
                    kind=Kind.ONNX_MODEL,
                    parents=parents,
                    packages=packages,
                    contract=contract,
                    details=options | details | (found or {}),
                    started_s=started_s,
                )

        return self.maker.ensured(
            path, Kind.ONNX_MODEL, parents=parents, options=options, make=make, note=_note_on_int8
        )


def interface_of(model: onnx_ir.Model) -> dict[str, JsonValue]:
    """Return opset, input and outputs of a model for its sidecar."""
    (image,) = model.graph.inputs
    return {
        "opset": model.opset_imports[""],
        "input": image.name,
        "outputs": [value.name for value in model.graph.outputs],
    }


def _note_on_int8(sidecar: Sidecar) -> str:
    agreement, layers = sidecar.details.get("validation_agreement"), sidecar.details.get("float_layers")
    if not isinstance(agreement, float) or not isinstance(layers, list):
        return ""
    kept = f", {len(layers)} layers in float" if layers else ""
    hint = ""
    smallest = SMALLEST_AGREEMENT[str(sidecar.details["precision"])]
    if agreement < smallest:
        hint = f" < {100 * smallest:.1f} %: try --int8 auto"
    return f"validation {100 * agreement:.1f} % as before{hint}{kept}"
