"""Which trials a run has, and what must be true of a run before any of them means something."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import util
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue, ValidationError

from bench.gate import SMALLEST_AGREEMENT
from bench.results import Trial, TrialResult
from harness.core.artifacts import Kind, Sidecar, read_sidecar, sidecar_path, verified_sidecar
from harness.core.contract import Contract
from harness.core.errors import ArtifactError
from harness.core.runs import RunDirectory, RunRecord
from harness.core.tensorrt_flavour import gpu_driver_present
from harness.data.evaluation_set import EvaluationSet, evaluation_set_folder, evaluation_set_from_folder
from harness.data.golden import golden_logits

KNOWN_PRECISIONS = frozenset({"fp32", *SMALLEST_AGREEMENT})
_REMEDY = "`harness export RUN` makes it again."


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What every trial of a run is compared with: the golden's logits_bc over the evaluation set."""

    run: RunDirectory
    record: RunRecord
    evaluation_set: EvaluationSet
    checkpoint_sha256: str
    logits_bc: npt.NDArray[np.float32]
    test_rows: npt.NDArray[np.int64]

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
    return Reference(
        run=run,
        record=record,
        evaluation_set=evaluation_set,
        checkpoint_sha256=checkpoint_sha256,
        logits_bc=golden_logits(
            run.golden,
            checkpoint_sha256=checkpoint_sha256,
            evaluation_set=evaluation_set,
            contract=record.contract,
        ),
        test_rows=evaluation_set.indices_of("test"),
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
    reasons = dict.fromkeys(("pytorch", "onnxruntime", "openvino", "tensorrt"), "")
    for name, module in (("pytorch", "torch"), ("onnxruntime", "onnxruntime"), ("openvino", "openvino")):
        if util.find_spec(module) is None:
            reasons[name] = f"{module} is not installed"
    if not gpu_driver_present():
        reasons["tensorrt"] = "no NVIDIA driver on this machine"
    elif not _has_cuda_bindings():
        reasons["tensorrt"] = "cuda-python is not installed"
    return reasons


def _has_cuda_bindings() -> bool:
    try:
        return util.find_spec("cuda.bindings") is not None
    except ModuleNotFoundError:  # No package named cuda at all.
        return False


def trials_of_run(
    run: RunDirectory, backends: tuple[str, ...], batch_sizes: tuple[int, ...], threads: int
) -> list[Trial]:
    """Return every trial of a run's artifacts in the given backends, eager PyTorch first."""
    artifacts: list[tuple[str, Path, str]] = [("eager", run.checkpoint, "pytorch")]
    for path in sorted(run.export_folder.glob("*.onnx")):
        artifacts += [(path.stem, path, "onnxruntime"), (path.stem, path, "openvino")]
    artifacts += [
        (path.name.removesuffix(".engine"), path, "tensorrt") for path in sorted(run.export_folder.glob("*.engine"))
    ]
    return [
        Trial(
            run=run.name,
            variant=variant,
            artifact=str(path.relative_to(run.folder)),
            backend=backend,
            precision=_recorded_precision(path, backend),
            batch_size=batch_size,
            threads=threads,
        )
        for batch_size in batch_sizes
        for variant, path, backend in artifacts
        if backend in backends
    ]


def _recorded_precision(path: Path, backend: str) -> str:
    """Return the precision of the sidecar, for a file may be renamed; the gate refuses what is not known."""
    if backend == "pytorch":
        return "fp32"
    try:
        return str(read_sidecar(path, kind=artifact_kind(backend), remedy=_REMEDY).details.get("precision", "unknown"))
    except ArtifactError:
        return "unknown"


def artifact_kind(backend: str) -> Kind:
    """Return what kind of artifact a backend loads."""
    if backend == "pytorch":
        return Kind.CHECKPOINT
    return Kind.ENGINE if backend == "tensorrt" else Kind.ONNX_MODEL


def checked_artifact(reference: Reference, trial: Trial) -> tuple[Sidecar | None, list[str]]:
    """Return an artifact's sidecar and, in words, what breaks the contract with the run."""
    path = reference.run.folder / trial.artifact
    kind = artifact_kind(trial.backend)
    try:
        sidecar = verified_sidecar(path, kind=kind, remedy=_REMEDY)
    except ArtifactError as error:
        return None, [error.message]
    problems = []
    if sidecar.contract is None:
        problems.append(f"{path.name} carries no contract")
    else:
        problems += [f"{path.name}: {each}" for each in sidecar.contract.differences(reference.contract)]
    if trial.precision not in KNOWN_PRECISIONS:
        problems.append(f"{path.name} does not say a precision that the gate has a rule for ({trial.precision})")
    made_from = sidecar.sha256 if kind is Kind.CHECKPOINT else sidecar.parents.get("checkpoint")
    if made_from != reference.checkpoint_sha256:
        problems.append(f"{path.name} was made from another checkpoint than the golden answers")
    return sidecar, problems


def metadata_problems(metadata: dict[str, str] | None, contract: Contract) -> list[str]:
    """Return where the contract inside a model file, as its runtime read it, differs from the run's."""
    if metadata is None:
        return []
    return [
        f"the file's own {key.removeprefix('cxr_harness.')} is {metadata.get(key)}, the run's is {value}"
        for key, value in contract.metadata().items()
        if metadata.get(key) != value
    ]


def kept_results(
    reference: Reference, trials: list[Trial], margin: float, quick: bool, machine: dict[str, JsonValue]
) -> list[TrialResult] | None:
    """Return the records of a group of trials where all are still true; None where the group is to be measured.

    Trials of one batch size are measured together or not at all: their ratios come from common rounds. A record is
    true while the artifact, the checkpoint, the margin, the kind of measurement, the machine and all versions are.
    """
    results = []
    for trial in trials:
        path = reference.run.bench_folder / f"{trial.identifier}.json"
        try:
            result = TrialResult.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError):
            return None
        sidecar, problems = checked_artifact(reference, trial)
        same = (result.trial, result.margin, result.quick, result.machine) == (trial, margin, quick, machine)
        whole = sidecar is not None and not problems and result.status == "measured"
        available = result.status == "unavailable" and available_backends()[trial.backend] == result.reason
        if not same or not (available or (whole and sidecar and sidecar.sha256 == result.artifact_sha256)):
            return None
        results.append(result)
    sessions = {result.created for result in results}
    return results if len(sessions) == 1 else None
