"""MLCommons LoadGen beside our closed loop: SingleStream is one, driven and timed by somebody else.

LoadGen's latency runs from its own clock before the callback until the answer is reported complete, so it holds ours,
end to end, and Python's way in and out of the callback: 20 to 50 us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from bench.backends.interface import Backend, Images
from bench.backends.openvino_cpu import OpenvinoCpu
from bench.load_log import detail_from_folder
from bench.peers.alternating import Extent, alternated
from bench.peers.network import CLASS_COUNT
from bench.peers.subject import SETTLE_CALLS, OpenWorker, Subject, loaded
from bench.peers.telling import Line
from harness.core.errors import BackendError

_P50 = "result_50.00_percentile_latency_ns"
# LoadGen prepares its queries beforehand, from this and the time that it is told: none.
_EXPECTED_NS = 1_000_000


class _Served:
    """What LoadGen calls. Nothing may leave a callback: an exception in one ends the interpreter."""

    def __init__(self, backend: Backend, batches: Sequence[Images]) -> None:
        self._backend, self._batches = backend, batches
        # The answers' memory must live until they are complete, and to ask for its address takes 5 to 20 us.
        self._output_bc = np.zeros((1, CLASS_COUNT), dtype=np.float32)
        self._address = int(self._output_bc.__array_interface__["data"][0])
        self.failure: Exception | None = None

    def issue(self, samples: Sequence[Any]) -> None:
        import mlperf_loadgen

        for each in samples:
            if self.failure is None:
                try:
                    self.answer(each.index)
                except Exception as error:  # noqa: BLE001  # whatever leaves a callback ends the interpreter
                    self.failure = error
            size_bytes = self._output_bc.nbytes
            mlperf_loadgen.QuerySamplesComplete(
                [mlperf_loadgen.QuerySampleResponse(each.id, self._address, size_bytes)]
            )

    def answer(self, index: int) -> None:
        self._backend.bind(self._batches[index])
        self._backend.step()
        self._backend.sync()
        self._output_bc[:] = self._backend.fetch()

    def flush(self) -> None:
        """Nothing is held back."""


def load_generation_lines(subject: Subject, extent: Extent) -> list[Line]:
    """Return our median end to end beside LoadGen's p50; empty where LoadGen is not installed."""
    if util.find_spec("mlperf_loadgen") is None:
        return []
    calls, folder = extent.load_calls, subject.folder / "loadgen"
    with loaded(OpenvinoCpu, subject) as backend:
        worker = OpenWorker(subject.load_message("openvino"), backend)
        served = _Served(backend, worker.batches)

        def theirs() -> Mapping[str, float]:
            for index in range(SETTLE_CALLS):
                served.answer(index % len(worker.batches))
            return {"theirs": _p50_s(served, calls, len(worker.batches), folder)}

        blocks = {"ours": lambda: {"ours": worker.end_to_end_s(calls)}, "theirs": theirs}
        found = alternated(blocks, extent.load_rounds, wait=extent.wait)
    boundaries = (
        "ours END TO END: bind + step + sync + fetch, perf_counter; "
        "theirs: the same verbs, from the query's issue until it is complete"
    )
    return [Line.of_durations("LoadGen SingleStream p50", found, "ours", boundaries=boundaries)]


def _p50_s(served: _Served, calls: int, image_count: int, folder: Path) -> float:
    """Run SingleStream for so many queries and return LoadGen's own p50; raise BackendError where that fails."""
    import mlperf_loadgen

    folder.mkdir(parents=True, exist_ok=True)  # Without it LoadGen aborts the process.
    settings = mlperf_loadgen.TestSettings()
    settings.FromConfig("", "resnet50", "SingleStream", 0)  # 0: the configuration that the wheel embeds
    settings.scenario = mlperf_loadgen.TestScenario.SingleStream
    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = 0
    settings.min_query_count = settings.max_query_count = calls
    settings.single_stream_expected_latency_ns = _EXPECTED_NS
    settings.performance_sample_count_override = image_count
    logs, output = mlperf_loadgen.LogSettings(), mlperf_loadgen.LogOutputSettings()
    output.outdir = str(folder)
    logs.log_output = output
    logs.enable_trace = False
    system = mlperf_loadgen.ConstructSUT(served.issue, served.flush)
    library = mlperf_loadgen.ConstructQSL(image_count, image_count, _ignored, _ignored)
    try:
        # An audit.config in the current folder would be obeyed unless another name is given.
        mlperf_loadgen.StartTestWithLogSettings(system, library, settings, logs, str(folder / "no-audit.config"))
    finally:
        mlperf_loadgen.DestroyQSL(library)
        mlperf_loadgen.DestroySUT(system)
    if served.failure is not None:
        raise served.failure
    detail = detail_from_folder(folder)
    queries, errors = detail.get("result_query_count"), detail.get("num_errors")
    if (queries, errors) != (calls, 0):
        raise BackendError(
            f"LoadGen counted {queries} queries of {calls}, {errors} errors.",
            hint=f"Its logs are in {folder}.",
        )
    return float(str(detail[_P50])) / 1e9


def _ignored(indices: Sequence[int]) -> None:
    """All images are in memory already."""
