"""Which earlier records are still true, so that a second `harness bench` does only what is missing."""

from __future__ import annotations

from pydantic import ValidationError

from bench.judging import recomputed
from bench.proving import Terms
from bench.results import Trial, TrialResult, stored_answers
from bench.trials import Reference, checked_artifact, deployed_sha256, unavailability
from harness.core.errors import ArtifactError


def kept_result(reference: Reference, trial: Trial, terms: Terms) -> TrialResult | None:
    """Return the record of an earlier measurement that is still true, judged again; None where there is none.

    It is true while the artifact, the checkpoint, the margin, the splits, the machine and all versions are. Its times
    are for the session to judge, which belong to all its trials or to none.
    """
    path = reference.run.bench_folder / f"{trial.identifier}.json"
    try:
        result = TrialResult.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None
    same = (result.trial, result.machine) == (trial, terms.machine)
    same = same and (result.margin, result.splits) == (terms.margin, terms.splits)
    sidecar, problems = checked_artifact(reference, trial)
    if not same or problems:
        return None
    if result.status == "unavailable":
        return result if unavailability(trial) == result.reason else None
    whole = sidecar is not None and deployed_sha256(sidecar) == result.artifact_sha256
    if result.status != "measured" or not whole or stored_answers(reference.run, result) is None:
        return None
    try:
        # A record's word is believed no more here than by a report: labels or rules may be others since.
        return recomputed(reference, result)
    except ArtifactError:
        return None
