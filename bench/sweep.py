"""All timed trials of a run as points of a sweep: against batch size and threads, and against the machine's ceiling."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.backends import REFERENCE_BACKEND
from bench.ceiling import Ceiling, Device, ceiling_from_file, ceiling_path
from bench.economics import SweepPoint
from bench.limit import compute_floor_s, effective_flop_of, share_of_ceiling
from bench.making_time import MakingTime, making_time_of
from bench.results import TrialResult
from harness.core.runs import RunDirectory


def device_of_backend(backend: str) -> Device:
    """Return on which kind of device a backend computes."""
    return "cuda" if backend.startswith("tensorrt") or backend.endswith("-cuda") else "cpu"


def ceilings_of(runs_folder: Path, results: Iterable[TrialResult]) -> list[Ceiling]:
    """Return the ceilings that were measured on the machine of some of the results, each once."""
    wanted = {(device_of_backend(each.trial.backend), each.trial.threads) for each in results}
    found = [ceiling_from_file(ceiling_path(runs_folder, device, threads)) for device, threads in sorted(wanted)]
    return [each for each in found if each is not None and any(each.machine == result.machine for result in results)]


def ceiling_of_result(ceilings: Iterable[Ceiling], result: TrialResult) -> Ceiling | None:
    """Return the ceiling that a trial is held to: of its device, its threads and its machine."""
    wanted = (device_of_backend(result.trial.backend), result.trial.threads)
    for ceiling in ceilings:
        if (ceiling.device, ceiling.threads) == wanted and ceiling.machine == result.machine:
            return ceiling
    return None


def sweep_points(run: RunDirectory, results: Iterable[TrialResult], ceilings: Iterable[Ceiling]) -> list[SweepPoint]:
    """Return a point per timed result of a run."""
    making: dict[str, MakingTime | None] = {}
    points = []
    for result in results:
        if result.timing is not None:
            artifact = result.trial.artifact
            if artifact not in making:  # Many trials share one.
                making[artifact] = making_time_of(run.folder / artifact)
            points.append(_point(run, result, ceiling_of_result(ceilings, result), making[artifact]))
    return points


def _point(run: RunDirectory, result: TrialResult, ceiling: Ceiling | None, making: MakingTime | None) -> SweepPoint:
    trial, summary, artifact = result.trial, result.summary, run.folder / result.trial.artifact
    assert summary is not None, "a timed result has a summary"
    share = floor_s = None
    if ceiling is not None and result.description is not None:
        flop, precision = effective_flop_of(run, artifact), result.description.precision
        share = share_of_ceiling(flop, summary.images_per_s, precision, ceiling)
        floor_s = compute_floor_s(flop, trial.batch_size, precision, ceiling)
    over_eager = result.speed_up if trial.backend != REFERENCE_BACKEND else None
    return SweepPoint(
        run=trial.run,
        artifact=trial.variant,
        backend=trial.backend,
        threads=trial.threads,
        batch_size=trial.batch_size,
        verdict=result.verdict.word.value if result.verdict is not None else result.status.upper(),
        median_s=summary.latency.value if summary.latency is not None else None,
        images_per_s=summary.images_per_s,
        speed_up=over_eager.estimate if over_eager is not None else None,
        share_of_ceiling=share,
        compute_floor_s=floor_s,
        memory_bytes=summary.peak_memory_bytes,
        device_memory_bytes=summary.device_memory_bytes,
        load_s=summary.load_s,
        first_call_s=summary.first_call_s,
        build_s=making.build_s if making is not None else None,
        calibration_s=making.calibration_s if making is not None else None,
    )
