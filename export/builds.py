"""How the builds of one run differ: the same artifact made several times is the same file, or is not.

TensorRT times its kernels and keeps the fastest, so two engines built from one ONNX file are two models. What the
other steps make is expected to be the same to the byte; that it is so is seen here and not assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.request import MadeArtifact


@dataclass(frozen=True, kw_only=True)
class ComparedBuilds:
    """One artifact in all its builds; `different_files` is 1 where they are byte-identical."""

    artifact: str
    builds: tuple[int, ...]
    different_files: int

    @property
    def identical(self) -> bool:
        return self.different_files == 1

    def summary(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "artifact": self.artifact,
            "builds": list(self.builds),
            "different_files": self.different_files,
            "identical": self.identical,
        }


def compared_builds(artifacts: Iterable[MadeArtifact]) -> list[ComparedBuilds]:
    """Compare what was made more than once, by the hashes of all its files."""
    by_name: dict[str, dict[int, tuple[str, ...]]] = {}
    for each in artifacts:
        if each.sha256s:  # What Triton serves is made of the first build only.
            by_name.setdefault(each.path.name, {})[each.build] = each.sha256s
    return [
        ComparedBuilds(artifact=name, builds=tuple(hashes), different_files=len(set(hashes.values())))
        for name, hashes in by_name.items()
        if len(hashes) > 1
    ]


def lines_on_builds(run_name: str, compared: Sequence[ComparedBuilds], left_alone: Sequence[int]) -> list[str]:
    """Return in words which artifacts are the same in all builds, which are not, and what builds were not touched."""
    lines = []
    same = [_counted(each) for each in compared if each.identical]
    other = [f"{_counted(each)}, {each.different_files} different files" for each in compared if not each.identical]
    if same:
        lines.append(f"{run_name}: byte-identical: {'; '.join(same)}.")
    if other:
        lines.append(f"{run_name}: not byte-identical: {'; '.join(other)}. `harness bench` says how far they differ.")
    if left_alone:
        folders = ", ".join(f"export/builds/{build}" for build in left_alone)
        lines.append(
            f"{run_name}: left as it was, for it is beyond --builds: {folders}. `harness bench` measures it too; "
            "delete the folder to be rid of it."
        )
    return lines


def _counted(compared: ComparedBuilds) -> str:
    return f"{compared.artifact} ({len(compared.builds)} builds)"
