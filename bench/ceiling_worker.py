"""The process that measures the ceiling, so that its threads and buffers are nobody else's.

Started as `python -P -m bench.ceiling_worker` and asked as bench.worker is: a request on stdin, a reply on the original
stdout, and what the libraries print in the log.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench.ceiling import MeasureCeiling, MeasuredCeiling, MemoryRate, Rate
from bench.ceiling_libraries import Library, openvino_library, torch_copy, torch_library
from bench.serving import Served, serve

_FEWEST_CALLS = 2


def measured_ceiling(request: MeasureCeiling) -> MeasuredCeiling:
    """Time every operation and the copy; raise BackendError where the device is not there."""
    library = _library(request)
    copy = torch_copy(request) if request.device == "cuda" else copy_in_threads(request.copied_bytes, request.threads)
    calls = [*(kernel.call for kernel in library.kernels), copy]
    *durations_s, copy_s = durations_of(calls, request)
    rates = [
        Rate(operation=kernel.operation, precision=kernel.precision, flop=kernel.flop, duration_s=duration_s)
        for kernel, duration_s in zip(library.kernels, durations_s, strict=True)
    ]
    return MeasuredCeiling(
        device_name=library.device_name,
        library=library.name,
        version=library.version,
        rates=rates,
        memory=MemoryRate(counted_bytes=2 * request.copied_bytes, duration_s=copy_s),
        notes=library.notes,
        cpu_s=time.process_time(),
    )


def _library(request: MeasureCeiling) -> Library:
    if request.device == "cuda":
        return torch_library(request)
    try:
        return openvino_library(request)
    except ImportError as error:
        library = torch_library(request)
        library.notes.insert(0, f"OpenVINO cannot be imported: {error}")
        return library


def durations_of(calls: list[Callable[[], None]], request: MeasureCeiling) -> list[list[float]]:
    """Return seconds per repetition of every call, each warmed up once.

    They take turns: what disturbs the machine for a second must not hit one of them alone.
    """
    for call in calls:
        call()
    durations_s: list[list[float]] = [[] for _ in calls]
    gc.disable()
    try:
        for _ in range(request.rounds):
            for call, kept_s in zip(calls, durations_s, strict=True):
                kept_s += _round_of(call, request.round_s)
    finally:
        gc.enable()
    return durations_s


def _round_of(call: Callable[[], None], round_s: float) -> list[float]:
    clock = time.perf_counter
    kept_s: list[float] = []
    round_started_s = clock()
    while len(kept_s) < _FEWEST_CALLS or clock() - round_started_s < round_s:
        started_s = clock()
        call()
        kept_s.append(clock() - started_s)
    return kept_s


def copy_in_threads(copied_bytes: int, threads: int) -> Callable[[], None]:
    """Return a copy from memory to memory, an equal part in each thread; numpy copies without Python's lock."""
    source = np.ones(copied_bytes, dtype=np.uint8)
    target = np.zeros_like(source)
    target[:] = 1  # Every page is there before the clock runs.
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    pool = ThreadPoolExecutor(threads)

    def call() -> None:
        for done in [pool.submit(np.copyto, into, out_of) for into, out_of in parts]:
            done.result()

    return call


def _reply_to(request: dict[str, Any], _: Served | None) -> tuple[Served | None, str]:
    return None, measured_ceiling(MeasureCeiling.model_validate(request)).model_dump_json()


def main() -> None:
    """Serve ceilings."""
    serve(_reply_to)


if __name__ == "__main__":
    main()
