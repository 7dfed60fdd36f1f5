"""Each artifact is made once: what is whole, and of the same build, parents, options and versions, is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

from export.request import MadeArtifact, name_of_artifact
from harness.core.artifacts import CALIBRATION_S, Kind, Sidecar, build_from_details, verified_sidecar
from harness.core.errors import ArtifactError


@dataclass(kw_only=True)
class Maker:
    """Makes the artifacts of one build of a run and remembers what became of each.

    Builds share `made` and nothing else.
    """

    force: bool
    build: int = 1
    made: list[MadeArtifact] = field(default_factory=list)

    def ensured(
        self,
        path: Path,
        kind: Kind,
        *,
        parents: dict[str, str],
        options: dict[str, JsonValue],
        make: Callable[[], Sidecar],
        note: Callable[[Sidecar], str] = lambda _: "",
        whole: Callable[[Sidecar], bool] = lambda _: True,
    ) -> Sidecar:
        """Return the sidecar of an up-to-date artifact, or of the one that `make` makes now.

        `whole` tells whether what else belongs to the artifact is still there.
        """
        started_s = time.perf_counter()
        sidecar = None if self.force else current_sidecar(path, kind, parents, options, self.build)
        duration_s = None
        if sidecar is None or not whole(sidecar):
            sidecar = make()
            duration_s = time.perf_counter() - started_s
            assert sidecar.details["build"] == self.build, "every sidecar says which build it is of"
        self.made.append(
            MadeArtifact(
                path=path,
                size_bytes=sidecar.size_bytes,
                duration_s=duration_s,
                note=note(sidecar),
                build=self.build,
                sha256s=_hashes_of_files(sidecar),
            )
        )
        return sidecar

    def leave_out(self, path: Path, note: str) -> None:
        """Remember why something that was asked for is not made."""
        self.made.append(MadeArtifact(path=path, size_bytes=0, duration_s=None, note=note, left_out=True))

    def name(self, path: Path) -> str:
        """Return what people read instead of a path: the file's name, and its build where that is not the first."""
        return name_of_artifact(path, self.build)


def quantisation_details(parent: Sidecar) -> dict[str, JsonValue]:
    """Return what a file made from a quantised one must say too: which images it saw, and what was chosen on them.

    The bench lets neither these images nor the split that layers were chosen on judge it.
    """
    return {key: parent.details[key] for key in ("calibration", "float_layers", "int8") if key in parent.details}


def calibration_time(parent: Sidecar) -> dict[str, JsonValue]:
    """Return for the details of what is made from a quantised file how long the calibration took, where it is known.

    Beside the options, and not among them: a file is not out of date because a calibration took longer.
    """
    return {CALIBRATION_S: parent.details[CALIBRATION_S]} if CALIBRATION_S in parent.details else {}


def _hashes_of_files(sidecar: Sidecar) -> tuple[str, ...]:
    weights = sidecar.details.get("weights_sha256")  # An OpenVINO model's lie in a file of their own.
    return (sidecar.sha256,) if weights is None else (sidecar.sha256, str(weights))


def current_sidecar(
    path: Path, kind: Kind, parents: dict[str, str], options: dict[str, JsonValue], build: int = 1
) -> Sidecar | None:
    """Return the sidecar where the file is whole and was made in this build, from these parents, options, versions."""
    try:
        sidecar = verified_sidecar(path, kind=kind, remedy="")
    except ArtifactError:
        return None
    try:
        same_versions = all(metadata.version(name) == version for name, version in sidecar.versions.items())
    except metadata.PackageNotFoundError:
        return None
    same_options = all(sidecar.details.get(name) == value for name, value in options.items())
    same_build = build_from_details(sidecar.details) == build  # A copy of another build is none of this one.
    return sidecar if sidecar.parents == parents and same_versions and same_options and same_build else None
