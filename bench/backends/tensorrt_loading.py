"""From the file of an engine to a backend: what can be checked without a GPU is checked first.

One engine file, three backends: launching kernel by kernel, with a CUDA graph, and with device memory through pycuda.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from bench.backends.device_memory import Body, opened_memory
from bench.backends.interface import Backend, LoadRequest
from bench.backends.tensorrt_differences import RUNTIMES
from bench.backends.tensorrt_engine import TensorrtEngine
from harness.core.artifacts import Kind, read_sidecar, sidecar_path
from harness.core.engine_files import checked_engine_header, flavour_from_name
from harness.core.errors import BackendError
from harness.core.tensorrt_flavour import Flavour, gpu_driver_present, imported_flavour

_DISTRIBUTIONS: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}
_REBUILD = "Build the engine again for this GPU and this version: `harness export --trt --force`."


def load(request: LoadRequest) -> Backend:
    """Load an engine file named <variant>.<flavour>.engine.

    Raises ArtifactError where the file is missing or malformed, BackendError where no GPU takes it.
    """
    return _loaded(request)


def load_with_graph(request: LoadRequest) -> Backend:
    """Load an engine whose steps launch a CUDA graph; raises as `load` does."""
    return _loaded(request, graph=True, body="cuda-python")


def load_through_pycuda(request: LoadRequest) -> Backend:
    """Load an engine with device memory through pycuda; raises as `load` does."""
    return _loaded(request, body="pycuda")


def _loaded(request: LoadRequest, *, graph: bool = False, body: Body | None = None) -> Backend:
    flavour = _flavour_of(request.artifact)
    header = checked_engine_header(request.artifact, flavour)
    details = _recorded(request.artifact)
    version_compatible = details.get("version_compatible") is True
    if not version_compatible:
        _check_version(request.artifact, flavour, header.version if header else details.get("flavour_version"))
    if not gpu_driver_present():
        raise BackendError(
            f"There is no NVIDIA driver on this machine, so {request.artifact.name} cannot run here.",
            hint="Run the benchmark on a machine with an NVIDIA GPU, or choose others with `--backend`.",
        )
    return TensorrtEngine(
        request,
        flavour,
        tensorrt=imported_flavour(flavour),
        open_memory=lambda: opened_memory(body),
        version_compatible=version_compatible,
        graph=graph,
    )


def _recorded(artifact: Path) -> dict[str, Any]:
    """Return what was recorded of an engine; nothing of one without a sidecar."""
    if not sidecar_path(artifact).is_file():
        return {}
    return dict(read_sidecar(artifact, kind=Kind.ENGINE, remedy=_REBUILD).details)


def _check_version(artifact: Path, flavour: Flavour, built_by: object) -> None:
    """Raise BackendError where the library installed is not the build that made the engine: no other may load it."""
    try:
        installed = metadata.version(_DISTRIBUTIONS[flavour])
    except metadata.PackageNotFoundError:
        return  # Then it is refused for that.
    if built_by not in (None, installed):
        raise BackendError(
            f"{artifact.name} was built by {RUNTIMES[flavour]} {built_by}; installed is {installed}.", hint=_REBUILD
        )


def _flavour_of(artifact: Path) -> Flavour:
    flavour = flavour_from_name(artifact)
    if flavour is None:
        raise BackendError(
            f"{artifact.name} is not the name of an engine.",
            hint="Engines are named <variant>.tensorrt.engine or <variant>.rtx.engine.",
        )
    return flavour
