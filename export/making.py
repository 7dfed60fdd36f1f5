"""Each artifact is made once: what is whole, and of the same parents, options and versions, is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

from export.request import MadeArtifact
from harness.core.artifacts import Kind, Sidecar, verified_sidecar
from harness.core.errors import ArtifactError


@dataclass(kw_only=True)
class Maker:
    """Makes the artifacts of one run and remembers what became of each."""

    force: bool
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
        sidecar = None if self.force else current_sidecar(path, kind, parents, options)
        duration_s = None
        if sidecar is None or not whole(sidecar):
            sidecar = make()
            duration_s = time.perf_counter() - started_s
        self.made.append(
            MadeArtifact(path=path, size_bytes=sidecar.size_bytes, duration_s=duration_s, note=note(sidecar))
        )
        return sidecar

    def leave_out(self, path: Path, note: str) -> None:
        """Remember why something that was asked for is not made."""
        self.made.append(MadeArtifact(path=path, size_bytes=0, duration_s=None, note=note, left_out=True))


def current_sidecar(path: Path, kind: Kind, parents: dict[str, str], options: dict[str, JsonValue]) -> Sidecar | None:
    """Return the sidecar where the file is whole and was made from these parents, options and versions."""
    try:
        sidecar = verified_sidecar(path, kind=kind, remedy="")
    except ArtifactError:
        return None
    try:
        same_versions = all(metadata.version(name) == version for name, version in sidecar.versions.items())
    except metadata.PackageNotFoundError:
        return None
    same_options = all(sidecar.details.get(name) == value for name, value in options.items())
    return sidecar if sidecar.parents == parents and same_versions and same_options else None
