"""An artifact is a file and its JSON sidecar: the sidecar says what the file is and what it was made from.

The chain of parents (Engine -> OnnxModel -> Checkpoint, Golden -> Checkpoint) is by content hash, so an engine of
another checkpoint can never be measured as this one. The file is renamed into place before its sidecar: a crash
between the two leaves a pair that does not match, which every reader notices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from harness.core.contract import Contract
from harness.core.errors import ArtifactError
from harness.core.files import sha256_from_file, write_atomically, write_text_atomically

# In a sidecar's details: seconds that the artifact took to make, and that its activations' ranges took to measure. They
# differ from one making to the next, so nothing may compare them to tell whether an artifact is up to date.
BUILD_S, CALIBRATION_S = "build_s", "calibration_s"


class Kind(StrEnum):
    """What an artifact's file is."""

    MANIFEST = "manifest"
    EVALUATION_IMAGES = "evaluation images"
    EVALUATION_ROWS = "evaluation rows"
    FILM_PIXELS = "film pixels"
    FILM_ROWS = "film rows"
    CHECKPOINT = "checkpoint"
    GOLDEN = "golden"
    ONNX_MODEL = "onnx model"
    CALIBRATION_RANGES = "calibration ranges"
    ENGINE = "engine"
    OPENVINO_MODEL = "OpenVINO model"
    OPENVINO_WEIGHTS = "OpenVINO weights"
    TRITON_MODEL = "Triton model"


class Sidecar(BaseModel):
    """The JSON beside an artifact. `parents` maps a role to the sha256 of the file that played it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    sha256: str
    size_bytes: int
    created: str
    parents: dict[str, str]
    versions: dict[str, str]
    contract: Contract | None = None
    details: dict[str, JsonValue] = {}


def build_from_details(details: Mapping[str, JsonValue]) -> JsonValue:
    """Return which build of a run's exports a sidecar's details are of; those from before there were several: 1."""
    return details.get("build", 1)


def sidecar_path(path: Path) -> Path:
    """Return where the sidecar of `path` lies."""
    return path.with_name(path.name + ".json")


def write_artifact(
    path: Path,
    write: Callable[[Path], None],
    *,
    kind: Kind,
    parents: dict[str, str],
    packages: tuple[str, ...] = (),
    contract: Contract | None = None,
    details: dict[str, JsonValue] | None = None,
    started_s: float | None = None,
) -> Sidecar:
    """Write the file through `write`, then its sidecar; each whole or not at all.

    `packages` are the distributions whose versions shaped the file. `started_s`, of time.perf_counter(), is when its
    making began: the details then tell in `build_s` how long it took. Raises ArtifactError where writing fails.
    """
    write_atomically(path, write)
    took: dict[str, JsonValue] = {} if started_s is None else {BUILD_S: round(time.perf_counter() - started_s, 4)}
    sidecar = Sidecar(
        kind=kind,
        sha256=sha256_from_file(path),
        size_bytes=path.stat().st_size,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        parents=parents,
        versions={name: metadata.version(name) for name in ("cxr-harness", *packages)},
        contract=contract,
        details=(details or {}) | took,
    )
    write_text_atomically(sidecar_path(path), sidecar.model_dump_json(indent=2) + "\n")
    return sidecar


def read_sidecar(path: Path, *, kind: Kind, remedy: str) -> Sidecar:
    """Read and check the sidecar of `path` without reading the file itself.

    `remedy` is the command that makes the artifact. Raises ArtifactError where file or sidecar is missing,
    malformed, or of another kind.
    """
    beside = sidecar_path(path)
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist.", hint=remedy)
    if not beside.is_file():
        raise ArtifactError(f"{path} has no sidecar {beside.name}, so nothing says what it is.", hint=remedy)
    try:
        sidecar = Sidecar.model_validate_json(beside.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(f"The sidecar {beside} is not readable: {error}", hint=remedy) from error
    if sidecar.kind is not kind:
        raise ArtifactError(f"{path} is a {sidecar.kind.value}, not a {kind.value}.", hint=remedy)
    return sidecar


def verified_sidecar(path: Path, *, kind: Kind, remedy: str) -> Sidecar:
    """Read the sidecar of `path` and check the file's hash against it; raise ArtifactError where they differ."""
    sidecar = read_sidecar(path, kind=kind, remedy=remedy)
    actual = sha256_from_file(path)
    if actual != sidecar.sha256:
        raise ArtifactError(
            f"{path} is not the file that its sidecar describes: its sha256 is {actual[:12]}..., "
            f"recorded is {sidecar.sha256[:12]}...",
            hint=remedy,
        )
    return sidecar
