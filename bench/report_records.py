"""The records of a run as a report needs them: read, judged again, reduced to figures; many by several processes.

A record has some 10,000 times of calls. Of 1,000 trials, to read, judge and reduce them is most of a report's time, and
one has nothing to do with another.
"""

from __future__ import annotations

import ctypes
import gc
import math
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from bench.flips import Flip, flips_of_result, write_flips
from bench.judging import recomputed
from bench.results import TrialResult, result_from_file, without_calls
from bench.trials import Reference, is_stale, reference_of_run
from harness.core.errors import HarnessError
from harness.core.machine import core_count
from harness.core.runs import RunDirectory

# Below, a process takes longer to start than it saves.
_MANY = 100
_MOST_PROCESSES = 4
_AT_ONCE = 20
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """What a run has to show, and what is to be said of what it does not show."""

    results: list[TrialResult]
    flips: list[Flip]
    problems: list[str]


@dataclass(frozen=True, kw_only=True)
class _Read:
    """One record: without a result where it is `stale` or `malformed`, or a note says why."""

    result: TrialResult | None = None
    flips: tuple[Flip, ...] = ()
    stale: str = ""
    malformed: str = ""
    note: str = ""


def results_for_report(run: RunDirectory, *, keep_calls: bool) -> RunResults:
    """Return a run's results with verdict and figures computed again from the stored answers, and write its flips.

    Where that cannot be done, because the golden answers did not travel along, the figures of the records stand, and a
    problem says so. A record that is malformed, or whose answers were changed, is left out and named. The results have
    every figure of their times, and the calls themselves only where they are to be kept.
    """
    paths = sorted(run.bench_folder.glob("*.json"))
    reference, problem = _reference(run) if paths else (None, "")
    read = _all_read(_Reader(run, reference, keep_calls=keep_calls), paths)
    results = [each.result for each in read if each.result is not None]
    flips = [flip for each in read for flip in each.flips]
    # Where no record could be read, what an earlier report wrote is all that anybody has.
    if reference is not None and any(not each.malformed for each in read):
        write_flips(reference, flips)
    named = [
        (
            "left out, for the artifacts have changed since (`harness bench` measures again)",
            [each.stale for each in read if each.stale],
        ),
        (
            "left out, for they are no records of this version (delete them, and `harness bench` measures again)",
            [each.malformed for each in read if each.malformed],
        ),
    ]
    return RunResults(
        results=results,
        flips=flips,
        problems=[
            *([problem] if problem and results else []),
            *(f"{what}: {', '.join(names)}" for what, names in named if names),
            *(each.note for each in read if each.note),
        ],
    )


def _reference(run: RunDirectory) -> tuple[Reference | None, str]:
    try:
        return reference_of_run(run), ""
    except HarnessError as error:
        return None, f"figures are the records' own and were not computed again: {error.message}"


@dataclass(frozen=True)
class _Reader:
    run: RunDirectory
    reference: Reference | None
    _: KW_ONLY
    keep_calls: bool

    def read(self, path: Path) -> _Read:
        try:
            stored = result_from_file(path)
        except HarnessError:  # Its words are pydantic's, hundreds of lines where the form was another.
            return _Read(malformed=path.name)
        except OSError as error:
            return _Read(note=f"{path.name} is left out: {error}")
        name = stored.trial.identifier
        if is_stale(self.run, stored):
            return _Read(stale=name)
        fresh = stored
        flips: tuple[Flip, ...] = ()
        if self.reference is not None:
            try:
                fresh = recomputed(self.reference, stored)
                flips = tuple(flips_of_result(self.reference, fresh))
            except HarnessError as error:
                return _Read(note=f"{name} is left out: {error.message}")
        differs = f"{name}: its record differs from what its stored answers give, shown here"
        return _Read(
            result=fresh if self.keep_calls else without_calls(fresh),
            flips=flips,
            note="" if _alike(fresh, stored) else differs,
        )


def _alike(one: TrialResult, other: TrialResult) -> bool:
    """Tell whether two results say the same; another version of a library may round the last digits otherwise."""
    return one == other or (
        one.model_copy(update={"parity": None}) == other.model_copy(update={"parity": None})
        and one.parity is not None
        and other.parity is not None
        and _same_figures(one.parity.model_dump(), other.parity.model_dump())
    )


def _same_figures(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_figures(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same_figures, one, other))
    return bool(one == other)


def _all_read(reader: _Reader, paths: list[Path]) -> list[_Read]:
    processes = min(core_count(), _MOST_PROCESSES)
    # Elsewhere a process would import everything anew; and on macOS the system's own libraries do not bear a fork.
    if len(paths) < _MANY or processes == 1 or sys.platform != "linux":
        return [reader.read(path) for path in paths]
    try:
        with _forked(processes, reader) as pool:
            return list(pool.map(_read_here, paths, chunksize=1 if reader.keep_calls else _AT_ONCE))
    except (RuntimeError, OSError):
        # One was killed, perhaps for want of memory, or could not be started: alone it takes longer, and needs less.
        return [reader.read(path) for path in paths]


# Found by a forked process as its parent left it: the pixels of an evaluation set are not to be sent to it.
_readers: list[_Reader] = []


@contextmanager
def _forked(processes: int, reader: _Reader) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool whose processes find the reader.

    Raises RuntimeError (BrokenProcessPool is one) or OSError where a process was killed or could not be started.
    """
    before = multiprocessing.active_children()
    _readers.append(reader)
    try:
        with warnings.catch_warnings():
            # Of threads that hold locks. Here they are those of the linear algebra, which can be forked.
            warnings.filterwarnings("ignore", message=r".*fork", category=DeprecationWarning)
            context = multiprocessing.get_context("fork")
            pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_process)
            try:
                yield pool
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        _readers.clear()
        # The pool forgets those that it had started when it could not start another, and they would wait for ever.
        for each in multiprocessing.active_children():
            if each not in before:
                each.kill()
                each.join()


def _prepare_process() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, in whatever way: nobody else would close the queue."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # It was gone before it could be asked for.
        os._exit(1)
    gc.disable()  # It looks for cycles, of which records have none, in a million numbers again and again.


def _read_here(path: Path) -> _Read:
    return _readers[-1].read(path)
