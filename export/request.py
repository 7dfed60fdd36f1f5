"""What `harness export` was asked for, and what it tells of each file it made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from export.builds import compared_builds, lines_on_builds
from export.calibration import Calibration, CalibrationMethod
from export.engine_options import BatchProfile, EngineOptions, HardwareCompatibility
from harness.core.errors import HarnessError, UsageError
from harness.core.runs import BUILDS_NAME
from harness.core.tensorrt_flavour import Flavour
from harness.core.variants import PRECISIONS, QUANTISED, Precision, Variant


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """`int8` says whether every layer is quantised, or those that cost too much on validation stay in float.

    `builds` is how often everything is made, each time independently of the others.
    """

    precisions: tuple[Precision, ...] = ("fp32",)
    uint8_input: bool = False
    probabilities: bool = False
    calibration: Calibration = field(default_factory=Calibration)
    int8: Literal["all", "auto"] = "all"
    engine: bool = False
    flavour: Flavour | Literal["auto"] = "auto"
    profile: BatchProfile = field(default_factory=BatchProfile)
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    openvino: bool = False
    triton: bool = False
    builds: int = 1
    force: bool = False

    def variants(self) -> list[Variant]:
        """Return the variants to make: each precision plain, and with the inputs and outputs asked for."""
        variants = []
        for precision in dict.fromkeys(self.precisions):
            plain = Variant(precision=precision)
            asked = Variant(precision=precision, uint8_input=self.uint8_input, probabilities=self.probabilities)
            variants += [plain] if asked == plain else [plain, asked]
        return variants

    def for_build(self, build: int) -> ExportRequest:
        """Return what one build is made from: only the first reads and writes the timing cache.

        Builds that shared their timings would choose the same kernels, and the spread between them would be none.
        """
        if build == 1 or self.engine_options.timing_cache is None:
            return self
        return replace(self, engine_options=replace(self.engine_options, timing_cache=None))


def request_from_options(
    *,
    precisions: tuple[str, ...],
    calibration: int,
    calibration_method: CalibrationMethod,
    engine_batch: str,
    targets: str,
    workspace_mib: int,
    tf32: bool,
    timing_cache: Path | None,
    hardware_compatibility: HardwareCompatibility,
    version_compatible: bool,
    **same: Any,
) -> ExportRequest:
    """Resolve the command line's options; raise UsageError for what makes no sense."""
    chosen = PRECISIONS if "all" in precisions else tuple(dict.fromkeys(precisions)) or ("fp32",)
    request = ExportRequest(
        precisions=chosen,  # type: ignore[arg-type]
        calibration=Calibration(count=calibration, method=calibration_method),
        profile=profile_from_text(engine_batch),
        engine_options=EngineOptions(
            workspace_bytes=workspace_mib << 20,
            tf32=tf32,
            targets=tuple(dict.fromkeys(name.strip().upper() for name in targets.split(",") if name.strip())),
            timing_cache=timing_cache,
            hardware_compatibility=hardware_compatibility,
            version_compatible=version_compatible,
        ),
        **same,
    )
    _check_every_option_has_an_effect(request)
    return request


def _check_every_option_has_an_effect(request: ExportRequest) -> None:
    """Raise UsageError for options of what is not made: taken without a word, they would pass for obeyed."""
    usual, options, usual_options = ExportRequest(), request.engine_options, EngineOptions()
    of_engines = {
        "--flavour": request.flavour != usual.flavour,
        "--engine-batch": request.profile != usual.profile,
        "--target": options.targets != usual_options.targets,
        "--workspace": options.workspace_bytes != usual_options.workspace_bytes,
        "--tf32": options.tf32,
        "--timing-cache": options.timing_cache is not None,
        "--hardware-compatibility": options.hardware_compatibility != usual_options.hardware_compatibility,
        "--version-compatible": options.version_compatible,
    }
    of_int8 = {
        "--int8": request.int8 != usual.int8,
        "--calibration": request.calibration.count != usual.calibration.count,
        "--calibration-method": request.calibration.method != usual.calibration.method,
    }
    for wanted, given, what, remedy in (
        (request.engine, of_engines, "an engine", "--trt"),
        (not QUANTISED.isdisjoint(request.precisions), of_int8, "int8", "--precision int8"),
    ):
        names = [name for name, differs in given.items() if differs]
        if names and not wanted:
            raise UsageError(
                f"{', '.join(names)}: of use for {what} only, and none is asked for.",
                hint=f"Add `{remedy}`, or leave it out.",
            )


def profile_from_text(text: str) -> BatchProfile:
    """Return the batch sizes of MIN/OPT/MAX; raise UsageError where they are not three rising numbers."""
    try:
        minimum, optimum, maximum = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise UsageError(
            f"--engine-batch {text} is not MIN/OPT/MAX.", hint="Give three batch sizes, for instance 1/8/32."
        ) from error
    return BatchProfile(minimum=minimum, optimum=optimum, maximum=maximum)


@dataclass(frozen=True, kw_only=True)
class MadeArtifact:
    """One artifact of one run: `duration_s` is None where it was up to date, or `left_out` for the reason noted.

    `sha256s` are of all its files; none for a folder that Triton serves.
    """

    path: Path
    size_bytes: int
    duration_s: float | None
    note: str = ""
    left_out: bool = False
    build: int = 1
    sha256s: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return name_of_artifact(self.path, self.build)

    @property
    def status(self) -> str:
        if self.left_out:
            return "left out"
        return "up to date" if self.duration_s is None else "made"


def name_of_artifact(path: Path, build: int) -> str:
    """Return a file's name, seen from the run's export folder where it is of a further build."""
    return path.name if build == 1 else f"{BUILDS_NAME}/{build}/{path.name}"


@dataclass(frozen=True, kw_only=True)
class ExportOutcome:
    """One run: what was made before the error, if there was one; `left_builds` are beyond those asked for."""

    run_name: str
    artifacts: tuple[MadeArtifact, ...]
    error: HarnessError | None
    left_builds: tuple[int, ...] = ()

    def rows(self) -> list[list[str]]:
        """Cells for the closing table: run, artifact, status, size, seconds, note."""
        rows = [
            [
                self.run_name,
                artifact.name,
                artifact.status,
                "" if artifact.left_out else f"{artifact.size_bytes / 1e6:.1f} MB",
                "" if artifact.duration_s is None else f"{artifact.duration_s:.1f}",
                artifact.note,
            ]
            for artifact in self.artifacts
        ]
        if self.error is not None:
            rows.append([self.run_name, "", "FAILED", "", "", self.error.message[:60]])
        return rows

    def lines(self) -> list[str]:
        """What the table cannot say: whether the builds of each artifact are the same file."""
        return lines_on_builds(self.run_name, compared_builds(self.artifacts), self.left_builds)

    def summary(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "run": self.run_name,
            "artifacts": [
                {
                    "path": str(made.path),
                    "size_bytes": made.size_bytes,
                    "duration_s": made.duration_s,
                    "note": made.note,
                    "left_out": made.left_out,
                    "build": made.build,
                }
                for made in self.artifacts
            ],
            "builds": [each.summary() for each in compared_builds(self.artifacts)],
            "left_builds": list(self.left_builds),
            "error": self.error.message if self.error else None,
        }
