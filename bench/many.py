"""The bench: for each run, prove the parity of every trial, then time together what did not fail."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby

from bench.availability import default_backends
from bench.backends import REFERENCE_BACKEND
from bench.ceiling import ensured_ceiling
from bench.flips import flips_of_result, with_earlier_results, write_flips
from bench.gate import Word
from bench.keeping import kept_result
from bench.loads import Load, LoadRequest, Loads, loads_json, measure_loads
from bench.proving import Terms, proved
from bench.results import Splits, Trial, TrialResult
from bench.scenarios import MOST_BOUND_S
from bench.sessions import timed
from bench.sweep import device_of_backend
from bench.tables import BENCH_COLUMNS, bench_rows
from bench.time_tables import noise_lines
from bench.timing import PLANS, Plan
from bench.timings import Mode
from bench.trials import Reference, available_backends, reference_of_run, trials_of_run
from harness.core.errors import BackendError, HarnessError, UsageError
from harness.core.files import write_text_atomically
from harness.core.lock import run_lock
from harness.core.machine import core_count
from harness.core.progress import Progress
from harness.core.runs import RunDirectory
from harness.core.tensorrt_flavour import gpu_driver_present

_DEFAULT_BATCH_SIZES = (1, 8)
_SMALLEST_MARGIN = 1e-6
# Answers must not depend on the size of the batch; 5 is what is left over at the end of a data set.
_OTHER_BATCHES = (1, 5, 8, 32)


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What `harness bench` was asked for; `margin` is a fraction, `asked_backends` says they were named."""

    backends: tuple[str, ...]
    asked_backends: bool
    batch_sizes: tuple[int, ...]
    threads: tuple[int, ...]
    margin: float
    margin_set: str
    splits: Splits
    plan: Plan
    force: bool
    artifacts: tuple[str, ...] = ()
    load: LoadRequest = field(default_factory=LoadRequest)

    @staticmethod
    def from_options(
        *,
        backends: tuple[str, ...],
        batch_sizes: tuple[int, ...],
        threads: tuple[int, ...],
        margin: float,
        splits: Splits = "test",
        mode: Mode,
        force: bool,
        artifacts: tuple[str, ...] = (),
        scenarios: tuple[Load, ...] = (),
        latency_bound: float | None = None,
    ) -> BenchRequest:
        """Resolve the command line's options: none named means all, no or 0 threads one per core.

        `latency_bound` is in ms. Raises UsageError for a margin that is no loss (NaN is below no bound, and nothing
        would exceed it), and for a bound without a server.
        """
        if latency_bound is not None and "server" not in scenarios:
            raise UsageError("--latency-bound is of a server.", hint="Add `--scenario server`.")
        if latency_bound is not None and latency_bound > 1e3 * MOST_BOUND_S:
            raise UsageError(f"The bound is {latency_bound:g} ms.", hint=f"Give at most {1e3 * MOST_BOUND_S:g}.")
        if not _SMALLEST_MARGIN <= margin <= 100:
            raise UsageError(
                f"The margin is {margin:g} percentage points.", hint=f"Give {_SMALLEST_MARGIN:g} to 100; 1 is usual."
            )
        return BenchRequest(
            backends=tuple(dict.fromkeys(backends)) or default_backends(),
            asked_backends=bool(backends),
            batch_sizes=tuple(dict.fromkeys(batch_sizes)) or _DEFAULT_BATCH_SIZES,
            threads=tuple(dict.fromkeys(each or core_count() for each in threads)) or (core_count(),),
            margin=margin / 100,
            margin_set=datetime.now(UTC).isoformat(timespec="seconds"),
            splits=splits,
            plan=PLANS[mode],
            force=force,
            artifacts=artifacts,
            load=LoadRequest(
                loads=tuple(dict.fromkeys(scenarios)),
                latency_bound_s=None if latency_bound is None else latency_bound / 1e3,
                quick=mode == "quick",
                force=force,
            ),
        )


@dataclass(kw_only=True)
class BenchOutcome:
    """All results, and the failures that leave something unmeasured."""

    results: list[TrialResult] = field(default_factory=list)
    loads: Loads = field(default_factory=lambda: Loads(scenarios=[], gaps=[]))
    failures: list[FailedRow] = field(default_factory=list)

    def columns(self) -> list[str]:
        return BENCH_COLUMNS

    def rows(self) -> list[list[str]]:
        return bench_rows(self.results)

    def load_tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, columns and rows of what was measured under load."""
        return self.loads.tables()

    def noise(self) -> list[str]:
        """One line per session: what a model differs from itself by."""
        return noise_lines(self.results)

    def reasons(self) -> list[str]:
        """One line per verdict that is not PASS."""
        return [
            f"{result.trial.run} {result.trial.identifier}: {result.verdict.word.value}, {result.verdict.step}: "
            f"{result.verdict.reason}"
            for result in self.results
            if result.verdict is not None and result.verdict.word is not Word.PASS
        ]

    def verdict_failed(self, *, require_pass: bool) -> bool:
        words = [result.verdict.word if result.verdict else None for result in self.results]
        return any(word is Word.FAIL or (require_pass and word is not Word.PASS) for word in words)

    def json_text(self) -> str:
        trials = [result.model_dump(mode="json", exclude={"machine"}) for result in self.results]
        return json.dumps({"trials": trials, **loads_json(self.loads)} if self.loads.measured else trials)


@dataclass(frozen=True, kw_only=True)
class FailedRow:
    """A run or trial that could not be measured."""

    name: str
    error: HarnessError


def bench_many(runs: list[RunDirectory], request: BenchRequest, progress: Progress) -> BenchOutcome:
    """Measure every trial of every run; a run or trial that fails is a row, never the end.

    What was proved, and every finished set of processes, is on disk before the next begins.
    """
    outcome = BenchOutcome()
    _measure_ceilings(runs, request, progress)
    for number, run in enumerate(runs, start=1):
        progress.say(f"[{number}/{len(runs)}] {run.name}")
        try:
            run.finished_record()
            # An export would exchange the files under measurement, a second bench the answers.
            with run_lock(run.folder):
                _bench_run(run, request, outcome, progress)
        except HarnessError as error:
            outcome.failures.append(FailedRow(name=run.name, error=error))
    return outcome


def _measure_ceilings(runs: list[RunDirectory], request: BenchRequest, progress: Progress) -> None:
    """Measure what this machine could do at most, where that is not known; without it shares are left out."""
    if request.plan.mode in {"untimed", "quick"} or not runs:
        return
    devices = {device_of_backend(backend) for backend in request.backends}
    if not gpu_driver_present():
        devices -= {"cuda"}
    for device in sorted(devices):
        for threads in request.threads:
            progress.say(f"the machine's ceiling, {device}, {threads} threads")
            try:
                ensured_ceiling(runs[0].folder.parent, device=device, threads=threads)
            except HarnessError as error:
                progress.say(f"no ceiling: {error.message}")


def _bench_run(run: RunDirectory, request: BenchRequest, outcome: BenchOutcome, progress: Progress) -> None:
    """Add a run's results and failures to the outcome; raise HarnessError where nothing of it can be trusted."""
    reference = reference_of_run(run)
    trials = _chosen(run, request)
    results: list[TrialResult] = []
    for _, group in groupby(trials, key=lambda trial: (trial.threads, trial.batch_size)):
        judged = _proved(reference, list(group), request, progress)
        results += timed(reference, judged, request.plan, lambda each: _keep(run, each), progress, again=request.force)
    outcome.results += results
    outcome.failures += [FailedRow(name=run.name, error=each) for each in _failures(run, results, request)]
    loads = measure_loads(reference, results, request.load, progress)
    outcome.loads.scenarios.extend(loads.scenarios)
    outcome.loads.gaps.extend(loads.gaps)
    outcome.failures += [FailedRow(name=run.name, error=each) for each in _load_failures(run, loads)]
    everything = with_earlier_results(reference, results)
    flips = [flip for result in everything for flip in flips_of_result(reference, result)]
    write_flips(reference, flips)
    if flips:
        progress.say(f"{run.name}: {len(flips)} changed answers are in {run.bench_folder / 'flips.csv'}")


def _chosen(run: RunDirectory, request: BenchRequest) -> list[Trial]:
    """Return the trials that were asked for, and eager PyTorch, with which they are compared; raises UsageError."""
    trials = [
        trial
        for threads in request.threads
        for trial in trials_of_run(run, request.backends, request.batch_sizes, threads)
    ]
    if not trials:
        raise UsageError(
            f"{run.name} has nothing for {', '.join(request.backends)}.", hint="Run `harness export` first."
        )
    names = {trial.variant for trial in trials}
    if unknown := set(request.artifacts) - names:
        raise UsageError(
            f"{run.name} has no {', '.join(sorted(unknown))} for these backends.",
            hint=f"It has {', '.join(sorted(names))}.",
        )
    wanted = set(request.artifacts) or names
    return [trial for trial in trials if trial.variant in wanted or trial.backend == REFERENCE_BACKEND]


def _failures(run: RunDirectory, results: list[TrialResult], request: BenchRequest) -> list[BackendError]:
    """Return what leaves something unmeasured: a failed trial, or a backend that was asked for and is not here."""
    missing = {name for name, why in available_backends().items() if why}
    return [
        BackendError(
            f"{run.name} {result.trial.identifier}: {result.reason}", hint=f"Its log is in {run.bench_folder}."
        )
        for result in results
        if result.status == "failed"
        or (result.status == "unavailable" and request.asked_backends and result.trial.backend in missing)
    ]


def _load_failures(run: RunDirectory, loads: Loads) -> list[BackendError]:
    """Return what could not be measured under load, though it was asked for."""
    told: list[tuple[Trial, str, str, str]] = []
    told += [(each.trial, each.scenario, each.status, each.reason) for each in loads.scenarios]
    told += [(each.trial, "idle-gap", each.status, each.reason) for each in loads.gaps]
    return [
        BackendError(f"{run.name} {trial.identifier} {what}: {reason}", hint=f"See {run.bench_folder / 'load'}.")
        for trial, what, status, reason in told
        if status in {"failed", "unavailable"}
    ]


def _proved(reference: Reference, trials: list[Trial], request: BenchRequest, progress: Progress) -> list[TrialResult]:
    """Return the record of every trial with its verdict: an earlier one that is still true, judged again, or a new one.

    A new one is on disk before the next is begun.
    """
    terms = Terms.here(
        margin=request.margin, margin_set=request.margin_set, splits=request.splits, mode=request.plan.mode
    )
    results, batch_size = [], trials[0].batch_size
    others = _OTHER_BATCHES if batch_size == request.batch_sizes[0] else ()
    with progress.task(f"{reference.run.name} parity, batch {batch_size}", total=len(trials)) as task:
        for trial in trials:
            result = None if request.force else kept_result(reference, trial, terms)
            if result is None:
                result = proved(reference, trial, terms, others)
            _keep(reference.run, result)
            results.append(result)
            task.advance(note=trial.identifier)
    return results


def _keep(run: RunDirectory, result: TrialResult) -> None:
    path = run.bench_folder / f"{result.trial.identifier}.json"
    write_text_atomically(path, result.model_dump_json() + "\n")
