"""Results in pytest-benchmark's JSON, for the tools that read it: its own `compare`, and benchmark actions of CI.

One benchmark per timed trial, its end-to-end samples in seconds and in the order taken. Trials whose verdict is FAIL
were not timed and are not here, nor are those that went through a queue, which gives no call a time of its own. `Stats`
is not documented interface of pytest-benchmark, which is why its version is pinned and a test runs its `compare` on
what is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.results import TrialResult
from harness.core.files import write_text_atomically


def pytest_benchmark_content(results: Iterable[TrialResult], commit_folder: str | None = None) -> dict[str, Any]:
    """Return the JSON content; `machine_info` is the machine of the results where they agree on one."""
    import pytest_benchmark
    from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info
    from pytest_benchmark.utils import get_commit_info

    timed = [result for result in results if result.timing is not None and not result.timing.queued]
    machines = [result.machine for result in timed]
    machine_info = pytest_benchmark_generate_machine_info()
    if machines and all(machine == machines[0] for machine in machines):
        machine_info["harness"] = machines[0]
    return {
        "machine_info": machine_info,
        "commit_info": get_commit_info(commit_folder),
        "benchmarks": [_benchmark(result) for result in timed],
        "datetime": datetime.now(UTC).isoformat(),
        "version": pytest_benchmark.__version__,
    }


def write_pytest_benchmark_json(path: Path, results: Iterable[TrialResult]) -> None:
    """Write the file."""
    from pytest_benchmark.utils import safe_dumps

    write_text_atomically(path, safe_dumps(pytest_benchmark_content(results), indent=1) + "\n")


def _benchmark(result: TrialResult) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    assert result.timing is not None, "only timed results come here"
    trial, stats = result.trial, Stats()
    summary, ratio = result.summary, result.speed_up
    assert summary is not None, "what is timed has a summary"
    for sample_s in result.timing.end_to_end_s():
        stats.update(float(sample_s))
    verdict = result.verdict.word.value if result.verdict is not None else ""
    return {
        "group": f"{trial.run} batch {trial.batch_size}",
        "name": trial.identifier,
        "fullname": f"{trial.run}/{trial.identifier}",
        "params": trial.model_dump(mode="json"),
        "param": None,
        "extra_info": {
            "verdict": verdict,
            "boundary": "end to end: bind, step, sync, fetch",
            "contended": result.timing.contended,
            "quick": result.quick,
            "processes": len(result.timing.instances),
            "load_s": summary.load_s,
            "first_call_s": summary.first_call_s,
            "x_eager": ratio.model_dump() if ratio is not None else None,
        },
        "options": {
            "disable_gc": True,
            "timer": "perf_counter",
            "min_rounds": len(stats.data),
            "max_time": None,
            "min_time": None,
            "warmup": min(each.warm_up_calls for each in result.timing.instances),
        },
        "stats": stats.as_dict() | {"data": stats.data, "iterations": 1},
    }
