"""A run's files as models of Triton Inference Server: RUNS/triton/<run>.<variant>.<back end>.

All runs share the repository. Every folder in it is a model to the server, whatever its name, so unfinished ones lie
outside. The files are hard links where the disk has them: a repository of eight runs costs no second copy.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from pathlib import Path
from typing import get_args

from export.engine_options import BatchProfile
from export.folders import ASIDE_SUFFIX, link_or_copy, remove_if_empty, write_folder_atomically
from export.making import Maker, current_sidecar
from export.request import MadeArtifact
from export.triton_config import LABELS_NAME, ServedModel, TritonBackend
from harness.core.artifacts import Kind, Sidecar, read_sidecar, write_artifact
from harness.core.errors import ArtifactError
from harness.core.files import sha256_from_file, sha256_from_text
from harness.core.passport import Passport
from harness.core.progress import Progress
from harness.core.runs import RunDirectory
from harness.core.tensorrt_flavour import Flavour
from harness.core.variants import Variant, variant_from_name

CONFIG_NAME = "config.pbtxt"
_RTX_NOTE = "Triton loads engines of TensorRT, not of TensorRT-RTX"
_STALE_NOTE = "still served, but of an earlier checkpoint: export it again, or delete its folder"
_BF16_NOTE = "ONNX Runtime has no bfloat16 convolution on the CPU, and none was tried on a GPU"
# The server refuses "/" and ".." only, but a name is also part of an URL and of a folder's path.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,99}")


class TritonModels:
    """Puts the files of one run into the repository."""

    def __init__(self, run: RunDirectory, passport: Passport, maker: Maker, progress: Progress) -> None:
        self._run = run
        self._passport = passport
        self._maker = maker
        self._progress = progress

    def ensure_onnx(self, path: Path, sidecar: Sidecar, variant: Variant) -> None:
        """Serve an ONNX file through ONNX Runtime."""
        model = self._model("onnxruntime", variant)
        if variant.precision == "bf16":
            self._leave_out(model, _BF16_NOTE)
        else:
            self._ensure(model, {"onnx": sidecar}, {"1/model.onnx": path}, {"1/model.onnx": sidecar.sha256})

    def ensure_engine(self, path: Path, sidecar: Sidecar, variant: Variant, flavour: Flavour) -> None:
        """Serve an engine of TensorRT; one of TensorRT-RTX would not load, and is told of instead."""
        profile = sidecar.details["profile"]
        assert isinstance(profile, list)
        minimum, optimum, maximum = (int(str(size)) for size in profile)
        batches = BatchProfile(minimum=minimum, optimum=optimum, maximum=maximum)
        model = self._model("tensorrt", variant, batches)
        if flavour != "tensorrt":
            self._leave_out(model, _RTX_NOTE)
            return
        note = f"answers batches of {minimum} to {maximum} only" if minimum > 1 else ""
        self._ensure(model, {"engine": sidecar}, {"1/model.plan": path}, {"1/model.plan": sidecar.sha256}, note=note)

    def ensure_openvino(self, path: Path, sidecar: Sidecar, variant: Variant) -> None:
        """Serve an OpenVINO model; `path` is its .xml, its weights lie beside it."""
        weights = str(sidecar.details["weights_sha256"])
        self._ensure(
            self._model("openvino", variant),
            {"openvino": sidecar},
            {"1/model.xml": path, "1/model.bin": path.with_suffix(".bin")},
            {"1/model.xml": sidecar.sha256, "1/model.bin": weights},
        )

    def tell_of_stale_models(self) -> None:
        """List the run's models that this command did not make and that are of another checkpoint than the run's.

        Nothing is deleted: a server may be answering with them.
        """
        for folder in sorted(self._run.triton_repository.glob("*")):
            if not _is_model_of(self._run, folder.name):
                continue
            try:
                sidecar = read_sidecar(folder / CONFIG_NAME, kind=Kind.TRITON_MODEL, remedy="")
            except ArtifactError:
                continue  # Not of this project's making, or edited.
            if sidecar.parents.get("checkpoint") != self._passport.checkpoint_sha256:
                self._maker.leave_out(folder, _STALE_NOTE)

    def _model(self, backend: TritonBackend, variant: Variant, profile: BatchProfile | None = None) -> ServedModel:
        name = f"{served_name(self._run.name)}.{variant.name}.{backend}"
        return ServedModel(name=name, backend=backend, variant=variant, passport=self._passport, profile=profile)

    def _leave_out(self, model: ServedModel, note: str) -> None:
        self._maker.leave_out(self._run.triton_repository / model.name, note)

    def _ensure(
        self,
        model: ServedModel,
        origin: dict[str, Sidecar],
        sources: dict[str, Path],
        hashes: dict[str, str],
        *,
        note: str = "",
    ) -> None:
        """Make the model's folder unless it is up to date; `sources` and `hashes` are by path inside the folder."""
        started_s = time.perf_counter()
        folder = self._run.triton_repository / model.name
        parents = {role: sidecar.sha256 for role, sidecar in origin.items()}
        parents["checkpoint"] = self._passport.checkpoint_sha256
        hashes = hashes | {LABELS_NAME: sha256_from_text(model.labels())}
        duration_s = None
        if self._maker.force or not _is_current(folder, model, parents, hashes):
            with self._progress.task(f"{self._run.name}: triton/{model.name}", total=None):
                write_folder_atomically(
                    folder,
                    self._run.triton_staging / model.name,
                    lambda staging: _fill(staging, model, parents, sources, hashes),
                )
            duration_s = time.perf_counter() - started_s
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        self._maker.made.append(MadeArtifact(path=folder, size_bytes=size_bytes, duration_s=duration_s, note=note))


def served_name(run_name: str) -> str:
    """Return a run's name in characters that are safe in a server's model name, unchanged where it has no others."""
    if _PLAIN_NAME.fullmatch(run_name):
        return run_name
    # Two names may look the same after this; their hashes do not.
    digest = hashlib.sha256(run_name.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"run-{re.sub('[^A-Za-z0-9]+', '_', run_name)[:80]}-{digest}"


def remove_staged_leftovers(run: RunDirectory) -> None:
    """Delete what a killed export staged of a run's models; only for the holder of the run's lock.

    Links to files that were replaced since would keep these on the disk.
    """
    for path in run.triton_staging.glob("*"):
        name = path.name.removesuffix(ASIDE_SUFFIX)
        # A model that was put aside and not replaced yet is all that there is of it.
        replaced = path.name == name or (run.triton_repository / name).exists()
        if _is_model_of(run, name) and replaced:
            shutil.rmtree(path, ignore_errors=True)
    remove_if_empty(run.triton_staging)


def _is_model_of(run: RunDirectory, name: str) -> bool:
    """Tell whether a model's name is <run>.<variant>.<back end>: the name of another run may begin with this one's."""
    run_name, *rest = name.rsplit(".", 2)
    return (
        run_name == served_name(run.name)
        and len(rest) == 2
        and variant_from_name(rest[0]) is not None
        and rest[1] in get_args(TritonBackend)
    )


def _is_current(folder: Path, model: ServedModel, parents: dict[str, str], hashes: dict[str, str]) -> bool:
    """Tell whether the folder holds exactly these files, config.pbtxt included."""
    sidecar = current_sidecar(folder / CONFIG_NAME, Kind.TRITON_MODEL, parents, {"files": dict(hashes)})
    if sidecar is None or sidecar.sha256 != sha256_from_text(model.config()):
        return False
    paths = {name: folder / name for name in hashes}
    return all(path.is_file() and sha256_from_file(path) == hashes[name] for name, path in paths.items())


def _fill(
    folder: Path, model: ServedModel, parents: dict[str, str], sources: dict[str, Path], hashes: dict[str, str]
) -> None:
    for name, source in sources.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        link_or_copy(source, target)
        if sha256_from_file(target) != hashes[name]:
            raise ArtifactError(
                f"{source} changed while it was put into the Triton repository.",
                hint="Run the same command again; it makes the file anew.",
            )
    _write(folder / LABELS_NAME, model.labels())
    write_artifact(
        folder / CONFIG_NAME,
        lambda temporary: _write(temporary, model.config()),
        kind=Kind.TRITON_MODEL,
        parents=parents,
        contract=model.passport.contract,
        details={"variant": model.variant.name, "backend": model.backend, "files": dict(hashes)},
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")
