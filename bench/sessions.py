"""Sessions: which trials are timed together, what an interrupted one left, and the record after every set of processes.

Up to eight trials take turns in one session, eager PyTorch among them in every one, so that all have a ratio to it
from common rounds. One of them, the one with the shortest answers, takes part twice: what the two processes differ by
is the noise of the session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from bench.backends import REFERENCE_BACKEND
from bench.gate import Word
from bench.proving import failed_result, load_message, worker_log
from bench.results import TrialResult, answers_from_file, answers_path
from bench.sweep import device_of_backend
from bench.timing import Participant, Plan, measured_set
from bench.timings import Instance, Timing
from bench.trials import Reference
from harness.core.errors import BackendError
from harness.core.interrupts import interrupts_held
from harness.core.progress import Progress

# All processes of a session are alive together; more of them only lengthen the time between two turns.
_MOST_TOGETHER = 8
# So many rows tell whether a process holds the model that was judged.
_CHECKED_ROWS = 16
_TIMED_BATCHES = 4
_TWIN = " (twin)"
_RANKS = {"untimed": 0, "quick": 1, "full": 2, "strict": 3}


@dataclass(kw_only=True)
class _Session:
    """Trials that take turns; `baseline` is eager PyTorch's record, which may belong to another session."""

    name: str
    results: dict[str, TrialResult]
    baseline: TrialResult | None
    twin: str
    done: int = 0


def is_eager(result: TrialResult) -> bool:
    """Tell whether a record is of the checkpoint in eager PyTorch on the CPU, which others are compared with."""
    return result.trial.backend == REFERENCE_BACKEND


def timed(
    reference: Reference,
    results: Sequence[TrialResult],
    plan: Plan,
    keep: Callable[[TrialResult], None],
    progress: Progress,
    *,
    again: bool,
) -> list[TrialResult]:
    """Time the trials of one batch size and number of threads that did not fail; return all records.

    `keep` is given a record whenever something was added to it: after every set of processes, so that an interruption
    loses one set at most. A plan without processes leaves all as it is. `again` measures what was measured before;
    without it a longer measurement is never replaced by a shorter one.
    """
    if not plan.instances:
        return list(results)
    finished = {result.trial.identifier: result for result in results}
    able = [each for each in results if each.verdict is not None and each.verdict.word is not Word.FAIL]
    if able and not again and all(_stands(each, plan, than=-1) for each in able):
        progress.say(f"{reference.run.name}: timed before, unchanged (--force measures again)")
        return list(results)
    eager = next((each for each in able if is_eager(each)), None)
    longer = [] if again else [each for each in able if _stands(each, plan, than=0)]
    first = [eager] if eager is not None and eager not in longer else []
    parts = parts_of([each for each in able if each is not eager and each not in longer])
    for index, part in enumerate(parts):
        session = _begun([*first, *part] if index == 0 else part, eager, plan, again=again)
        _run(reference, session, plan, keep, progress)
        finished |= session.results
        if eager is not None and (session.baseline is None or finished[eager.trial.identifier].status == "failed"):
            eager = None
    return [finished[result.trial.identifier] for result in results]


def _stands(result: TrialResult, plan: Plan, *, than: int) -> bool:
    """Tell whether a trial has a whole measurement whose rank exceeds the plan's by more than `than`.

    One of the plan's own mode with fewer processes or rounds is of an earlier version, and no whole one.
    """
    timing = result.timing
    if timing is None or not timing.complete:
        return False
    if timing.mode == plan.mode and (timing.planned_instances < plan.instances or timing.planned_rounds < plan.rounds):
        return False
    return _RANKS[timing.mode] - _RANKS[plan.mode] > than


def parts_of(results: Sequence[TrialResult]) -> list[list[TrialResult]]:
    """Return the trials of each session besides eager PyTorch; the builds of one artifact stay together if they fit."""
    size = _MOST_TOGETHER - 1
    groups: dict[tuple[str, str], list[TrialResult]] = {}
    for result in results:
        groups.setdefault((result.trial.variant.split("~")[0], result.trial.backend), []).append(result)
    parts: list[list[TrialResult]] = [[]]
    for group in groups.values():
        if len(parts[-1]) + len(group) > size and parts[-1]:
            parts.append([])
        for result in group:
            if len(parts[-1]) == size:
                parts.append([])
            parts[-1].append(result)
    return parts


def _begun(members: list[TrialResult], eager: TrialResult | None, plan: Plan, *, again: bool) -> _Session:
    """Return the session to go on with: one that was interrupted, or a new one."""
    results = {each.trial.identifier: each for each in members}
    done = 0 if again else _sets_done(members, plan)
    if done:
        cut = {name: _cut(each, done) for name, each in results.items()}
        twin = next(name for name, each in cut.items() if each.twin is not None)
        return _Session(name=_session_name(members[0]), results=cut, baseline=eager, twin=twin, done=done)
    fresh = {name: each.model_copy(update={"timing": None, "twin": None}) for name, each in results.items()}
    quickest = min(members, key=lambda each: each.answering_s or 0.0).trial.identifier if members else ""
    name = f"{datetime.now(UTC).isoformat(timespec='microseconds')} {quickest}"
    return _Session(name=name, results=fresh, baseline=eager, twin=quickest)


def _sets_done(members: list[TrialResult], plan: Plan) -> int:
    """Return how many sets of processes all of these have in one session of this plan that was interrupted.

    One of them may have a set more, where the interruption came between two files. A session of other trials is not
    gone on with: they would have had other neighbours in its first sets than in its last.
    """
    timings = [each.timing for each in members if each.timing is not None]
    twins = [each.twin for each in members if each.twin is not None]
    if not timings or len(timings) < len(members) or len(twins) != 1:
        return 0
    first = timings[0]
    extent = (first.mode, first.planned_instances, first.planned_rounds, first.trials)
    as_planned = extent == (plan.mode, plan.instances, plan.rounds, len(members))
    one_session = {each.session for each in (*timings, *twins)} == {first.session}
    return min(len(each.instances) for each in (*timings, *twins)) if as_planned and one_session else 0


def _session_name(result: TrialResult) -> str:
    assert result.timing is not None, "what is gone on with was begun"
    return result.timing.session


def _cut(result: TrialResult, sets: int) -> TrialResult:
    """Return a result with so many of its sets of processes."""
    return result.model_copy(
        update={
            name: each.model_copy(update={"instances": each.instances[:sets]})
            for name, each in (("timing", result.timing), ("twin", result.twin))
            if each is not None
        }
    )


def _run(
    reference: Reference, session: _Session, plan: Plan, keep: Callable[[TrialResult], None], progress: Progress
) -> None:
    """Measure the sets of processes that are missing, and note each in the records."""
    if not session.results:
        return
    trial = next(iter(session.results.values())).trial
    description = f"{reference.run.name} timing, batch {trial.batch_size}, {trial.threads} threads"
    with progress.task(description, total=plan.instances * plan.rounds) as task:
        if session.done:
            progress.say(f"{description}: going on after {session.done} of {plan.instances} sets of processes")
            task.advance(session.done * plan.rounds)
        for number in range(session.done, plan.instances):
            participants = _participants(reference, session)
            if not participants:
                return
            baseline = session.baseline.trial.identifier if session.baseline is not None else None
            measured, failed = measured_set(participants, baseline, plan, number, task)
            with interrupts_held():  # All records have this set, or none has.
                for changed in _noted(session, plan, measured, failed):
                    keep(changed)
            if baseline in failed:
                session.baseline = None
                progress.say(f"{description}: no ratio to eager PyTorch any more: {failed[baseline].message}")


def _participants(reference: Reference, session: _Session) -> list[Participant]:
    """Return the models that are still in, the baseline first, and the twin of one."""
    taking_part = {name: each for name, each in session.results.items() if each.status == "measured"}
    if taking_part and session.baseline is not None:
        taking_part = {session.baseline.trial.identifier: session.baseline} | taking_part
    participants = [_participant(reference, name, each) for name, each in taking_part.items()]
    if session.twin in taking_part:
        twin = _participant(reference, session.twin, taking_part[session.twin])
        participants.append(replace(twin, name=session.twin + _TWIN, log=twin.log.with_suffix(".twin.log")))
    return participants


def _participant(reference: Reference, name: str, result: TrialResult) -> Participant:
    answers = answers_from_file(answers_path(reference.run, result.trial))
    rows = answers["rows"][: max(_CHECKED_ROWS, _TIMED_BATCHES * result.trial.batch_size)]
    return Participant(
        name=name,
        load=load_message(reference, result.trial, rows),
        log=worker_log(reference, result.trial),
        outputs_bc=answers["outputs_bc"][: min(_CHECKED_ROWS, len(rows))],
        on_gpu=device_of_backend(result.trial.backend) == "cuda",
    )


def _noted(
    session: _Session, plan: Plan, measured: dict[str, Instance], failed: dict[str, BackendError]
) -> list[TrialResult]:
    """Add a set of processes to the session's records, and return those that changed."""
    changed = []
    for name, result in session.results.items():
        error = failed.get(name) or (failed.get(name + _TWIN) if name == session.twin else None)
        if error is not None:
            session.results[name] = failed_result(result, error)
        elif name in measured and result.status == "measured":
            added = {"mode": plan.mode, "timing": _longer(result.timing, session, plan, measured[name])}
            if name == session.twin:
                added["twin"] = _longer(result.twin, session, plan, measured[name + _TWIN])
            session.results[name] = result.model_copy(update=added)
        else:
            continue
        changed.append(session.results[name])
    return changed


def _longer(timing: Timing | None, session: _Session, plan: Plan, instance: Instance) -> Timing:
    return Timing(
        session=session.name,
        trials=len(session.results),
        mode=plan.mode,
        planned_instances=plan.instances,
        planned_rounds=plan.rounds,
        instances=[*(timing.instances if timing is not None else []), instance],
    )
