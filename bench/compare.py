"""`harness compare OLD NEW`: which verdicts changed between two runs, whether the answers did, and the times.

Trials meet by file, backend, batch size and threads; runs by name, where a side is a folder of them. What the two
sides do not have in common, a margin, a split or a runtime's version, is told beside: it may be the whole reason.
"""

from __future__ import annotations

from pathlib import Path

from bench.comparison import Comparison, RunComparison, TrialComparison
from bench.paired import Paired, paired
from bench.results import TrialResult
from bench.sides import RunSide, Side, side_from_path
from bench.time_comparison import compared_times
from bench.time_statistics import Ratio
from bench.time_tables import sessions_of
from harness.core.errors import UsageError

_MOST_NAMED = 3


def compare(old_path: Path, new_path: Path) -> Comparison:
    """Compare two sides; raise ArtifactError for one that cannot be read, UsageError where nothing meets."""
    old, new = side_from_path(old_path, baseline=True), side_from_path(new_path, baseline=False)
    runs = [_compared_run(name, was, now) for name, was, now in _matched_runs(old, new)]
    met = any(trial.old and trial.new for run in runs for trial in run.trials)
    if not met and not any(run.checkpoints for run in runs):
        raise UsageError(
            f"{old_path} and {new_path} have no trial in common.",
            hint=f"OLD has {_listed(old)}; NEW has {_listed(new)}. `harness bench --batch --threads` measures others.",
        )
    return Comparison(old=old_path, new=new_path, runs=runs)


def _listed(side: Side) -> str:
    return f"{_enumerated(side.identifiers())} (run {_enumerated(list(side.runs))})"


def _matched_runs(old: Side, new: Side) -> list[tuple[str, RunSide, RunSide]]:
    """Return the runs that meet: by name in two folders of runs, else the one of each side."""
    if "runs" in {old.kind, new.kind}:
        if old.kind != new.kind:
            several, one = (old, new) if old.kind == "runs" else (new, old)
            raise UsageError(
                f"{several.path} is a folder of runs, and {one.path} is not.",
                hint=f"Name one of its runs: {', '.join(several.runs)}.",
            )
        names = list(dict.fromkeys([*old.runs, *new.runs]))
        return [(name, old.runs.get(name, RunSide()), new.runs.get(name, RunSide())) for name in names]
    ((old_name, was),), ((new_name, now),) = old.runs.items(), new.runs.items()
    name = old_name if old_name == new_name else f"{old_name} -> {new_name}"
    if old.kind == "record":
        (identifier,) = was.trials
        # Two records that are named are meant for each other, whatever they are of.
        now = _only(now, identifier if new.kind == "run" else next(iter(now.trials)), called=identifier)
    elif new.kind == "record":
        (identifier,) = now.trials
        was = _only(was, identifier, called=identifier)
    return [(name, was, now)]


def _only(side: RunSide, identifier: str, *, called: str) -> RunSide:
    found = side.trials.get(identifier)
    trials = {} if found is None else {called: found}
    return RunSide(trials=trials, reference=side.reference, record=side.record, notes=side.notes)


def _compared_run(name: str, old: RunSide, new: RunSide) -> RunComparison:
    identifiers = dict.fromkeys([*old.trials, *new.trials])
    same_images = old.record is not None and new.record is not None
    if old.record is not None and new.record is not None:
        was, now = old.record.contract, new.record.contract
        same_images = (was.case, was.preprocessing.crop_px) == (now.case, now.preprocessing.crop_px)
    trials = [_compared_trial(each, old, new, same_images=same_images) for each in identifiers]
    checkpoints, why = _compared_checkpoints(old, new)
    sided = [f"{word}: {note}" for word, side in (("OLD", old), ("NEW", new)) for note in side.notes]
    own = [
        (trial.trial, f"{word}: {note}")
        for trial in trials
        for word, judged in (("OLD", trial.old), ("NEW", trial.new))
        for note in (judged.notes if judged else ())
    ]
    return RunComparison(
        name=name,
        synthetic=any(side.record.contract.synthetic for side in (old, new) if side.record is not None),
        trials=trials,
        checkpoints=checkpoints,
        differences=_run_differences(old, new) + _trial_differences(trials),
        notes=[*sided, *gathered(own), *why],
    )


def _compared_trial(identifier: str, old_side: RunSide, new_side: RunSide, *, same_images: bool) -> TrialComparison:
    old, new = old_side.trials.get(identifier), new_side.trials.get(identifier)
    was = old.answers if old else None
    now = new.answers if new and new.standing == "current" else None
    pair = paired(was, now, new.result.margin) if new and was and now else None
    times = None
    if old is not None and new is not None and new.standing == "current":
        noise = [each for each in (_noise(old_side, old.result), _noise(new_side, new.result)) if each is not None]
        times = compared_times(old.result, new.result, noise=noise, same_images=same_images)
    return TrialComparison(trial=identifier, old=old, new=new, paired=pair, time=times)


def _noise(side: RunSide, result: TrialResult) -> Ratio | None:
    if result.timing is None:
        return None
    return sessions_of(each.result for each in side.trials.values())[result.timing.session].noise


def _compared_checkpoints(old: RunSide, new: RunSide) -> tuple[Paired | None, list[str]]:
    """Return the comparison of two checkpoints by their golden answers, or why there is none."""
    if old.reference is None or new.reference is None:
        return None, []
    if old.reference.checkpoint_sha256 == new.reference.checkpoint_sha256:
        return None, ["both sides have the same checkpoint"]
    was, now = old.golden_answers(), new.golden_answers()
    if was is None or now is None:
        return None, ["the checkpoints are not compared: one has no test films, or no numbers for answers"]
    pair = paired(was, now, None)
    return pair, [] if pair else ["the checkpoints are not compared: they have no test film or not the same classes"]


def _run_differences(old: RunSide, new: RunSide) -> list[str]:
    found = []
    if old.record is not None and new.record is not None:
        found += old.record.contract.differences(new.record.contract)
        if old.record.identity.data != new.record.identity.data:
            found.append("data set: their fingerprints differ")
    if old.reference is not None and new.reference is not None:
        was, now = (
            {images.sha256s[row] for row in images.indices_of("test")}
            for images in (old.reference.evaluation_set, new.reference.evaluation_set)
        )
        if was != now:
            found.append(f"test split: {len(was)} films against {len(now)}, {len(was & now)} of them in common")
    return found


def _trial_differences(trials: list[TrialComparison]) -> list[str]:
    found = []
    for trial in trials:
        if trial.old is not None and trial.new is not None:
            was, now = _conditions(trial.old.result), _conditions(trial.new.result)
            found += [
                (trial.trial, f"{key}: {was[key]} -> {now[key]}") for key in was if key in now and was[key] != now[key]
            ]
    return gathered(found)


def _conditions(result: TrialResult) -> dict[str, str]:
    """Return under what a trial was judged; a runtime that did not load has told no version."""
    conditions = {"trial": result.trial.identifier, "margin": f"{100 * result.margin:g} pp"}
    conditions |= {"judged on": " and ".join(result.judged_splits), "precision": result.trial.precision}
    if result.description is not None:
        conditions["runtime"] = f"{result.trial.backend} {result.description.version}"
    return conditions


def gathered(found: list[tuple[str, str]]) -> list[str]:
    """Return each text once, with the first few of what it is true of; `found` holds pairs of (of what, text)."""
    places: dict[str, list[str]] = {}
    for place, text in found:
        places.setdefault(text, []).append(place)
    return [f"{text} ({_enumerated(of)})" for text, of in places.items()]


def _enumerated(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
