"""ONNX -> TensorRT engine with its sidecar: what it was built from, for which GPUs and batch sizes, and the log."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from export.engine_messages import BuiltPlan
from export.engine_process import plan_from_onnx
from export.making import Maker, calibration_time, quantisation_details
from export.request import ExportRequest
from export.scratch import move, scratch_folder
from harness.core.artifacts import Kind, Sidecar, write_artifact
from harness.core.passport import Passport
from harness.core.progress import Progress
from harness.core.tensorrt_flavour import Flavour, imported_flavour
from harness.core.variants import Variant

_BY_CHANCE_NOTE = "; address randomisation cannot be switched off here, so another build may differ in some bytes"


def engine_path(onnx_path: Path, variant: Variant, flavour: Flavour) -> Path:
    return onnx_path.with_name(f"{variant.name}.{flavour}.engine")


def ensured_engine(
    onnx_path: Path,
    onnx_model: Sidecar,
    variant: Variant,
    passport: Passport,
    flavour: Flavour,
    request: ExportRequest,
    maker: Maker,
    progress: Progress,
) -> Sidecar:
    """Return the sidecar of a variant's engine, building it where needed."""
    path = engine_path(onnx_path, variant, flavour)
    profile, engine_options = request.profile, request.engine_options
    parents = {"onnx": onnx_model.sha256, "checkpoint": passport.checkpoint_sha256}
    options: dict[str, JsonValue] = {
        "variant": variant.name,
        "precision": variant.precision,
        "flavour": flavour,
        "flavour_version": imported_flavour(flavour).__version__,
        "profile": [profile.minimum, profile.optimum, profile.maximum],
        "passport": passport.model_dump(mode="json"),
        **engine_options.recorded(),
        **quantisation_details(onnx_model),
    }

    def make() -> Sidecar:
        started_s = time.perf_counter()
        with scratch_folder(path) as folder:
            plan_path, built = plan_from_onnx(
                onnx_path,
                flavour=flavour,
                input_name=str(onnx_model.details["input"]),
                input_shape=variant.input_shape(-1, passport.contract.preprocessing.crop_px),
                profile=profile,
                options=engine_options,
                scratch=folder,
                artifact_path=path,
                progress=progress,
            )
            details = options | calibration_time(onnx_model) | {"build": maker.build}
            return _kept(path, plan_path, built, parents, details, passport, started_s)

    return maker.ensured(path, Kind.ENGINE, parents=parents, options=options, make=make, note=_note)


def _kept(
    path: Path,
    plan_path: Path,
    built: BuiltPlan,
    parents: dict[str, str],
    details: dict[str, Any],
    passport: Passport,
    started_s: float,
) -> Sidecar:
    """Give the plan its name and its sidecar."""
    return write_artifact(
        path,
        partial(move, plan_path),
        kind=Kind.ENGINE,
        parents=parents,
        contract=passport.contract,
        details=details
        | {
            "tf32": built.tf32,
            "targets": list(built.targets),
            # Without the start of the builder's process, which is in `build_s`.
            "builder_s": built.build_s,
            "builder_log": list(built.log),
            # Not among the options: an engine is not out of date because it could not be built reproducibly.
            "address_randomisation": built.address_randomisation,
        },
        started_s=started_s,
    )


def _note(sidecar: Sidecar) -> str:
    targets = sidecar.details["targets"]
    assert isinstance(targets, list)
    note = f"for {', '.join(map(str, targets))}"
    # TensorRT's engines differ anyway, for it times its kernels.
    by_chance = sidecar.details["flavour"] == "rtx" and sidecar.details.get("address_randomisation") == "on"
    return note + (_BY_CHANCE_NOTE if by_chance else "")
