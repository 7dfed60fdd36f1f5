"""Runs -> ONNX files, engines, OpenVINO models, a Triton repository: each made once, none of them in a hurry twice."""

from __future__ import annotations

from pathlib import Path

from export.engines import engine_path, ensured_engine
from export.making import Maker
from export.mixed_int8 import Validation
from export.onnx_variants import OnnxVariants
from export.openvino_models import ensured_openvino_model, openvino_path
from export.request import ExportOutcome, ExportRequest, MadeArtifact
from export.scratch import remove_leftovers
from export.triton_repository import TritonModels, remove_staged_leftovers
from harness.core.artifacts import Kind, Sidecar, verified_sidecar
from harness.core.errors import ArtifactError, HarnessError
from harness.core.lock import run_lock
from harness.core.progress import Progress
from harness.core.runs import RunDirectory, RunRecord
from harness.core.tensorrt_flavour import Flavour, chosen_flavour
from harness.core.variants import TENSORRT_PRECISIONS
from harness.data.evaluation_set import (
    EvaluationSet,
    ensured_evaluation_set,
    evaluation_set_folder,
    evaluation_set_from_folder,
)
from harness.data.golden import Golden, ensured_golden
from harness.data.manifest import manifest_from_folder
from harness.data.passports import passport_of_run

_NO_ENGINE_NOTE = "TensorRT takes no uint8 activations: --precision int8 is its form"


def export_many(runs: list[RunDirectory], request: ExportRequest, progress: Progress) -> list[ExportOutcome]:
    """Convert every run and return what became of each; one that fails does not end the others.

    Raises BackendError, before anything is made, where an engine is asked for that cannot be built here.
    """
    flavour = chosen_flavour(request.flavour) if request.engine else None
    if flavour is not None:
        request.engine_options.check(flavour)
    outcomes = []
    for number, run in enumerate(runs, start=1):
        progress.say(f"[{number}/{len(runs)}] {run.name}")
        made: list[MadeArtifact] = []
        error = None
        try:
            record = run.finished_record()
            with run_lock(run.folder):  # Two exports at once would write the same files.
                for build in (1, *run.further_builds()):
                    remove_leftovers(run.build_folder(build))
                remove_staged_leftovers(run)
                _export_run(run, record, flavour, request, made, progress)
        except HarnessError as harness_error:
            error = harness_error
        left = tuple(build for build in run.further_builds() if build > request.builds)
        outcomes.append(ExportOutcome(run_name=run.name, artifacts=tuple(made), error=error, left_builds=left))
    return outcomes


def _export_run(
    run: RunDirectory,
    record: RunRecord,
    flavour: Flavour | None,
    request: ExportRequest,
    made: list[MadeArtifact],
    progress: Progress,
) -> None:
    """Make every build in turn; they have the checkpoint in common, its answers and the calibration images."""
    checkpoint = _own_checkpoint(run, record)
    evaluation_set = _evaluation_set(run, record, progress)
    golden = ensured_golden(
        run.golden,
        checkpoint=run.checkpoint,
        evaluation_set=evaluation_set,
        contract=record.contract,
        progress=progress,
    )
    passport = passport_of_run(golden, evaluation_set, record.contract, checkpoint.sha256)
    validation = _validation(evaluation_set, golden, record)
    for build in range(1, request.builds + 1):
        if request.builds > 1:
            progress.say(f"{run.name}: build {build} of {request.builds}")
        variants = OnnxVariants(
            run=run,
            passport=passport,
            evaluation_set=evaluation_set,
            validation=validation,
            request=request.for_build(build),
            maker=Maker(force=request.force, build=build, made=made),
            progress=progress,
        )
        _make_build(variants, flavour)


def _make_build(variants: OnnxVariants, flavour: Flavour | None) -> None:
    """Make one build of everything asked for; what Triton serves is of the first."""
    request, passport = variants.request, variants.passport
    maker, progress = variants.maker, variants.progress
    served = None
    if request.triton and maker.build == 1:
        served = TritonModels(variants.run, passport, maker, progress)
    for variant in request.variants():
        onnx_model = variants.ensured(variant)
        path = variants.path(variant)
        if served is not None:
            served.ensure_onnx(path, onnx_model, variant)
        if flavour is not None and variant.precision not in TENSORRT_PRECISIONS:
            maker.leave_out(engine_path(path, variant, flavour), _NO_ENGINE_NOTE)
        elif flavour is not None:
            engine = ensured_engine(path, onnx_model, variant, passport, flavour, request, maker, progress)
            if served is not None:
                served.ensure_engine(engine_path(path, variant, flavour), engine, variant, flavour)
        if request.openvino:
            openvino_model = ensured_openvino_model(path, onnx_model, variant, passport, maker, progress)
            if served is not None:
                served.ensure_openvino(openvino_path(path, variant), openvino_model, variant)
    if served is not None:
        served.tell_of_stale_models()


def _own_checkpoint(run: RunDirectory, record: RunRecord) -> Sidecar:
    checkpoint = verified_sidecar(
        run.checkpoint,
        kind=Kind.CHECKPOINT,
        remedy=f"Train again: `harness train {record.identity.case} --force`.",
    )
    same_run = checkpoint.details.get("identity") == record.identity.model_dump(mode="json")
    if checkpoint.contract != record.contract or not same_run:
        raise ArtifactError(
            f"{run.checkpoint} is of another run, another case or preprocessing than run.json says.",
            hint=f"Restore the run's own checkpoint, or train again: `harness train {record.identity.case} --force`.",
        )
    return checkpoint


def _validation(evaluation_set: EvaluationSet, golden: Golden, record: RunRecord) -> Validation:
    rows = evaluation_set.indices_of("validation")
    return Validation(
        pixels_bhwc=evaluation_set.pixels_bhwc[rows],
        golden_bc=golden.logits_bc[rows],
        preprocessing=record.contract.preprocessing,
        label_mode=record.contract.label_mode,
    )


def _evaluation_set(run: RunDirectory, record: RunRecord, progress: Progress) -> EvaluationSet:
    """Open the run's evaluation set; only where it is missing are the films needed again."""
    preprocessing = record.contract.preprocessing
    try:
        return evaluation_set_from_folder(
            evaluation_set_folder(run.evaluation_sets, record.identity.data, preprocessing)
        )
    except ArtifactError:
        manifest = manifest_from_folder(Path(record.manifest).parent)
    if manifest.fingerprint != record.identity.data:
        raise ArtifactError(
            f"The data set at {record.manifest} is no longer the one that {run.name} was trained on.",
            hint="Prepare it again as it was (same films, split and seed), or train anew.",
        )
    return ensured_evaluation_set(run.evaluation_sets, manifest, preprocessing, progress)
