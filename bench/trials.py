"""Which trials a run has, and what must be true of a run before any of them means something."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.availability import why_unavailable
from bench.backends import BACKENDS
from bench.results import Trial, TrialResult
from harness.core.artifacts import Kind, Sidecar, build_from_details, read_sidecar, sidecar_path, verified_sidecar
from harness.core.contract import Contract
from harness.core.engine_files import checked_engine_header, flavour_from_name, header_differences
from harness.core.errors import ArtifactError
from harness.core.files import sha256_from_text
from harness.core.passport import Passport
from harness.core.runs import RunDirectory, RunRecord
from harness.core.variants import QUANTISED, variant_from_name
from harness.data.evaluation_set import EvaluationSet, evaluation_set_folder, evaluation_set_from_folder
from harness.data.golden import read_golden
from harness.data.passports import passport_of_run

_REMEDY = "`harness export RUN` makes it again."
# Which backends load which kind of file.
_CHECKPOINT = ("pytorch", "pytorch-compile", "pytorch-cuda", "pytorch-compile-cuda")
_ONNX = ("onnxruntime", "onnxruntime-cuda")
_OPENVINO = ("openvino", "openvino-throughput")
_ENGINE = ("tensorrt", "tensorrt-graph", "tensorrt-pycuda")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What every trial of a run is compared with: the golden's logits_bc over the evaluation set."""

    run: RunDirectory
    record: RunRecord
    evaluation_set: EvaluationSet
    checkpoint_sha256: str
    passport: Passport
    logits_bc: npt.NDArray[np.float32]

    @property
    def contract(self) -> Contract:
        return self.record.contract


def reference_of_run(run: RunDirectory) -> Reference:
    """Open evaluation set and golden of a run; raise RunError or ArtifactError where they are not to be trusted."""
    record = run.finished_record()
    evaluation_set = evaluation_set_from_folder(
        evaluation_set_folder(run.evaluation_sets, record.identity.data, record.contract.preprocessing)
    )
    checkpoint_sha256 = read_sidecar(run.golden, kind=Kind.GOLDEN, remedy=_REMEDY).parents.get("checkpoint", "")
    _check_parentage(run, record, checkpoint_sha256)
    golden = read_golden(
        run.golden,
        checkpoint_sha256=checkpoint_sha256,
        evaluation_set=evaluation_set,
        contract=record.contract,
    )
    return Reference(
        run=run,
        record=record,
        evaluation_set=evaluation_set,
        checkpoint_sha256=checkpoint_sha256,
        passport=passport_of_run(golden, evaluation_set, record.contract, checkpoint_sha256),
        logits_bc=golden.logits_bc,
    )


def _check_parentage(run: RunDirectory, record: RunRecord, golden_parent: str) -> None:
    """Raise ArtifactError unless golden, checkpoint and run.json speak of one training.

    The sidecar is enough, and only where there is one: a run that was carried to another machine may leave its
    checkpoint behind.
    """
    if not sidecar_path(run.checkpoint).is_file() or not run.checkpoint.is_file():
        return
    checkpoint = read_sidecar(run.checkpoint, kind=Kind.CHECKPOINT, remedy=_REMEDY)
    if checkpoint.sha256 != golden_parent:
        raise ArtifactError(f"{run.golden} was made from another checkpoint than the run has now.", hint=_REMEDY)
    if checkpoint.details.get("identity") != record.identity.model_dump(mode="json"):
        raise ArtifactError(
            f"{run.checkpoint} is of another run than run.json says.",
            hint=f"Restore the run's own checkpoint, or train again: `harness train {record.identity.case} --force`.",
        )


def available_backends() -> dict[str, str]:
    """Return every backend, with the reason in words where this machine cannot run it and "" where it can."""
    return {name: why_unavailable(name) for name in BACKENDS}


def trials_of_run(
    run: RunDirectory, backends: tuple[str, ...], batch_sizes: tuple[int, ...], threads: int
) -> list[Trial]:
    """Return every trial of a run's artifacts in the given backends, eager PyTorch first, further builds last."""
    artifacts = [
        ("compiled" if "-compile" in backend else "eager", run.checkpoint, backend, 1) for backend in _CHECKPOINT
    ]
    for build in (1, *run.further_builds()):
        mark = "" if build == 1 else f"~{build}"
        found = _exported_artifacts(run.build_folder(build))
        artifacts += [(name + mark, path, backend, build) for name, path, backend in found]
    forms = {path: _recorded_form(path) for _, path, _, _ in artifacts}
    return [
        Trial(
            run=run.name,
            variant=variant,
            artifact=str(path.relative_to(run.folder)),
            backend=backend,
            precision=forms[path][0],
            form=forms[path][1],
            build=build,
            batch_size=batch_size,
            threads=threads,
        )
        for batch_size in batch_sizes
        for variant, path, backend, build in artifacts
        if backend in backends
    ]


def _exported_artifacts(folder: Path) -> list[tuple[str, Path, str]]:
    """Return the name, path and backend of what one build has for the bench."""
    artifacts = [(path.stem, path, name) for path in sorted(folder.glob("*.onnx")) for name in (*_ONNX, *_OPENVINO)]
    for suffix, cut, names in ((".ir.xml", ".xml", _OPENVINO), (".engine", ".engine", _ENGINE)):
        paths = sorted(folder.glob(f"*{suffix}"))
        artifacts += [(path.name.removesuffix(cut), path, name) for path in paths for name in names]
    return artifacts


def _recorded_form(path: Path) -> tuple[str, str]:
    """Return precision and variant as the sidecar has them, for a file may be renamed; the gate checks both."""
    if artifact_kind(path) is Kind.CHECKPOINT:
        return "fp32", "fp32"
    try:
        details = read_sidecar(path, kind=artifact_kind(path), remedy=_REMEDY).details
    except ArtifactError:
        return "unknown", "unknown"
    return str(details.get("precision", "unknown")), str(details.get("variant", "unknown"))


def artifact_kind(path: Path) -> Kind:
    """Return what kind of artifact a file name belongs to."""
    kinds = {".onnx": Kind.ONNX_MODEL, ".engine": Kind.ENGINE, ".xml": Kind.OPENVINO_MODEL}
    return kinds.get(path.suffix, Kind.CHECKPOINT)


def unavailability(trial: Trial) -> str:
    """Return in words why a trial cannot run on this machine, "" where it can."""
    reason = available_backends()[trial.backend]
    if not reason and (trial.backend, trial.precision) == ("onnxruntime", "bf16"):
        return "ONNX Runtime has no bfloat16 convolution on the CPU"
    return reason


def checked_artifact(reference: Reference, trial: Trial) -> tuple[Sidecar | None, list[str]]:
    """Return an artifact's sidecar and, in words, what breaks the contract with the run."""
    path = reference.run.folder / trial.artifact
    kind = artifact_kind(path)
    try:
        sidecar = verified_sidecar(path, kind=kind, remedy=_REMEDY)
    except ArtifactError as error:
        return None, [error.message]
    problems = []
    if sidecar.contract is None:
        problems.append(f"{path.name} carries no contract")
    else:
        problems += [f"{path.name}: {each}" for each in sidecar.contract.differences(reference.contract)]
    if kind is not Kind.CHECKPOINT:
        problems += _form_problems(path, trial, sidecar, reference)
        problems += _calibration_problems(path, sidecar, reference.evaluation_set)
    made_from = sidecar.sha256 if kind is Kind.CHECKPOINT else sidecar.parents.get("checkpoint")
    if made_from != reference.checkpoint_sha256:
        problems.append(f"{path.name} was made from another checkpoint than the golden answers")
    return sidecar, problems


def _form_problems(path: Path, trial: Trial, sidecar: Sidecar, reference: Reference) -> list[str]:
    """Return what is wrong with what a converted file is said to be and to carry."""
    form = variant_from_name(trial.form)
    if form is None or form.precision != trial.precision:
        return [f"{path.name} does not say a variant that the gate has a rule for ({trial.form}, {trial.precision})"]
    problems = []
    if trial.form != path.name.split(".")[0]:
        problems.append(f"{path.name} is by its sidecar a {trial.form}")
    build = build_from_details(sidecar.details)
    if build != trial.build:  # A copy of another build would make the two look alike.
        problems.append(
            f"{path.name} lies in the folder of build {trial.build}, and is by its sidecar of build {build}"
        )
    if sidecar.details.get("passport") != reference.passport.model_dump(mode="json"):
        problems.append(f"{path.name} carries another operating point or golden pair than the run has")
    if sidecar.kind is Kind.ENGINE:
        problems += engine_problems(path, sidecar)
    if sidecar.kind is Kind.OPENVINO_MODEL:
        try:
            weights = verified_sidecar(path.with_suffix(".bin"), kind=Kind.OPENVINO_WEIGHTS, remedy=_REMEDY)
        except ArtifactError as error:
            return [*problems, error.message]
        if weights.sha256 != sidecar.details.get("weights_sha256"):
            problems.append(f"{path.with_suffix('.bin').name} belongs to another model than {path.name}")
    return problems


def _calibration_problems(path: Path, sidecar: Sidecar, evaluation_set: EvaluationSet) -> list[str]:
    """Return what is wrong with the images that int8 ranges were measured on: none of them may judge the model."""
    calibration = sidecar.details.get("calibration")
    if not isinstance(calibration, dict):
        quantised = sidecar.details.get("precision") in QUANTISED
        return [f"{path.name} does not say which images it was calibrated on"] if quantised else []
    given = calibration.get("rows")
    rows = [row for row in given if isinstance(row, int)] if isinstance(given, list) else []
    if not rows:
        return [f"{path.name} does not say which images it was calibrated on"]
    if not all(0 <= row < len(evaluation_set.sha256s) for row in rows):
        return [f"{path.name} was calibrated on images that the run's data set does not have"]
    films = [evaluation_set.sha256s[row] for row in rows]
    if sha256_from_text("\n".join(sorted(films))) != calibration.get("sha256"):
        return [f"{path.name} was calibrated on other images than it says"]
    judging = {
        film
        for film, split in zip(evaluation_set.sha256s, evaluation_set.splits, strict=True)
        if split in {"validation", "test"}
    }
    shared = len(judging.intersection(films))
    return [f"{path.name} was calibrated on {shared} images that judge it"] if shared else []


def deployed_sha256(sidecar: Sidecar) -> str:
    """Return the hash of what is shipped; an OpenVINO model's includes that of its weights."""
    weights_sha256 = sidecar.details.get("weights_sha256")
    return sidecar.sha256 if weights_sha256 is None else sha256_from_text(f"{sidecar.sha256} {weights_sha256}")


def deployed_bytes(sidecar: Sidecar) -> int:
    """Return the size of what is shipped: an OpenVINO model's weights lie in a file of their own."""
    weights_bytes = sidecar.details.get("weights_bytes", 0)
    assert isinstance(weights_bytes, int), "the export writes a number"
    return sidecar.size_bytes + weights_bytes


def engine_problems(path: Path, sidecar: Sidecar) -> list[str]:
    """Return what an engine's own header tells against its name and its sidecar; TensorRT's has none to be read."""
    flavour = flavour_from_name(path)
    if flavour is None:
        return [f"{path.name} is not named as an engine"]
    recorded = sidecar.details.get("flavour")
    if recorded != flavour:
        return [f"{path.name} is by its sidecar an engine of {recorded}"]
    try:
        header = checked_engine_header(path, flavour)
    except ArtifactError as error:
        return [error.message]
    return [] if header is None else header_differences(header, sidecar.details)


def is_stale(run: RunDirectory, result: TrialResult) -> bool:
    """Tell whether the artifact is no longer the one that was measured; a damaged one that is whole again is not."""
    if result.status == "unavailable":
        return False
    path = run.folder / result.trial.artifact
    try:
        sidecar = verified_sidecar(path, kind=artifact_kind(path), remedy=_REMEDY)
    except ArtifactError:
        return result.artifact_sha256 is not None
    return deployed_sha256(sidecar) != result.artifact_sha256
