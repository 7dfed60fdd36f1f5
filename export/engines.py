"""ONNX -> TensorRT engine with its sidecar: what it was built from, for which GPUs and batch sizes, and the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import JsonValue

from export.making import Maker
from export.request import ExportRequest
from export.tensorrt_builder import BuiltEngine, engine_from_onnx
from harness.core.artifacts import Kind, Sidecar, write_artifact
from harness.core.passport import Passport
from harness.core.progress import Progress
from harness.core.tensorrt_flavour import Flavour, imported_flavour
from harness.core.variants import Variant


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
    }

    def make() -> Sidecar:
        built = engine_from_onnx(
            onnx_path,
            flavour=flavour,
            input_name=str(onnx_model.details["input"]),
            input_shape=variant.input_shape(-1, passport.contract.preprocessing.crop_px),
            profile=profile,
            options=engine_options,
            progress=progress,
        )
        return _written(path, built, parents, options | {"build": maker.build}, passport)

    return maker.ensured(path, Kind.ENGINE, parents=parents, options=options, make=make, note=_note)


def _written(
    path: Path, built: BuiltEngine, parents: dict[str, str], options: dict[str, Any], passport: Passport
) -> Sidecar:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            stream.write(memoryview(built.plan))  # TensorRT's own buffer: a copy would hold 770 MB twice.

    return write_artifact(
        path,
        write,
        kind=Kind.ENGINE,
        parents=parents,
        contract=passport.contract,
        details=options
        | {
            "tf32": built.tf32,
            "targets": list(built.targets),
            "build_s": built.build_s,
            "builder_log": list(built.log),
        },
    )


def _note(sidecar: Sidecar) -> str:
    targets = sidecar.details["targets"]
    assert isinstance(targets, list)
    return f"for {', '.join(map(str, targets))}"
