"""ONNX -> OpenVINO IR: <variant>.ir.xml and <variant>.ir.bin, weights in the precision of the ONNX file.

OpenVINO halves float32 weights when it saves unless told not to; that would be another model under the same name.
The passport goes into the model's runtime information, where OpenVINO gives it back.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from export.making import Maker, calibration_time, quantisation_details
from export.scratch import move, scratch_folder
from harness.core.artifacts import Kind, Sidecar, verified_sidecar, write_artifact
from harness.core.errors import ArtifactError, BackendError, ExportError
from harness.core.interrupts import interrupts_held
from harness.core.passport import Passport
from harness.core.progress import Progress
from harness.core.runs import run_folder_of_file
from harness.core.variants import Variant

_REMEDY = "Install the extra: `pip install -e '.[openvino]' -c constraints.txt`."
_PACKAGES = ("openvino",)


def openvino_path(onnx_path: Path, variant: Variant) -> Path:
    return onnx_path.with_name(f"{variant.name}.ir.xml")


def ensured_openvino_model(
    onnx_path: Path, onnx_model: Sidecar, variant: Variant, passport: Passport, maker: Maker, progress: Progress
) -> Sidecar:
    """Return the sidecar of a variant's IR, converting it where needed; raise BackendError without OpenVINO."""
    xml = openvino_path(onnx_path, variant)
    parents = {"onnx": onnx_model.sha256, "checkpoint": passport.checkpoint_sha256}
    options: dict[str, JsonValue] = {
        "variant": variant.name,
        "precision": variant.precision,
        "passport": passport.model_dump(mode="json"),
        **quantisation_details(onnx_model),
    }

    def make() -> Sidecar:
        started_s = time.perf_counter()
        with (
            progress.task(f"{run_folder_of_file(xml).name}: {maker.name(xml)}", total=None),
            scratch_folder(xml) as folder,
        ):
            converted = _converted(onnx_path, folder, passport.metadata(variant))
            weights = write_artifact(
                xml.with_suffix(".bin"),
                partial(move, converted.with_suffix(".bin")),
                kind=Kind.OPENVINO_WEIGHTS,
                parents=parents,
                packages=_PACKAGES,
                details={"build": maker.build},
            )
            return write_artifact(
                xml,
                partial(move, converted),
                kind=Kind.OPENVINO_MODEL,
                parents=parents,
                packages=_PACKAGES,
                contract=passport.contract,
                details=options
                | calibration_time(onnx_model)
                | {
                    "weights_sha256": weights.sha256,
                    "weights_bytes": weights.size_bytes,
                    "build": maker.build,
                },
                started_s=started_s,
            )

    return maker.ensured(
        xml, Kind.OPENVINO_MODEL, parents=parents, options=options, make=make, note=_note, whole=_weights_of(xml)
    )


def _weights_of(xml: Path) -> Callable[[Sidecar], bool]:
    def present(sidecar: Sidecar) -> bool:
        try:
            weights = verified_sidecar(xml.with_suffix(".bin"), kind=Kind.OPENVINO_WEIGHTS, remedy="")
        except ArtifactError:
            return False
        return weights.sha256 == sidecar.details["weights_sha256"]

    return present


def _note(sidecar: Sidecar) -> str:
    size_bytes = sidecar.details["weights_bytes"]
    assert isinstance(size_bytes, int)
    return f"and {size_bytes / 1e6:.1f} MB of weights"


def _converted(onnx_path: Path, folder: Path, metadata: dict[str, str]) -> Path:
    try:
        with interrupts_held():
            import openvino
    except ImportError as error:
        raise BackendError(f"OpenVINO cannot be imported: {error}.", hint=_REMEDY) from error
    path = folder / "model.xml"
    try:
        model = openvino.Core().read_model(str(onnx_path))
        for key, value in metadata.items():
            model.set_rt_info(value, key.split(".", 1))
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        # Of a full disk OpenVINO says "iostream error", and takes back what it had written.
        if shutil.disk_usage(folder).free < onnx_path.stat().st_size:
            raise OSError(errno.ENOSPC, "No space left on device") from error
        raise ExportError(
            f"OpenVINO cannot convert {onnx_path.name}: {error}", hint="Export it again: `harness export --force`."
        ) from error
    return path
